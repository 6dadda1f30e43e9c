"""The predecessor's entry point; see ``merging/predecessor``."""

import sys

from merging.predecessor import gradient_matching

if __name__ == "__main__":
    sys.exit(gradient_matching(sys.argv[1:]))
