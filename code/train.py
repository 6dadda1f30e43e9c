"""The predecessor's entry point; see ``merging/predecessor``."""

import sys

from merging.predecessor import train

if __name__ == "__main__":
    sys.exit(train(sys.argv[1:]))
