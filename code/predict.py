"""The predecessor's entry point; see ``merging/predecessor``."""

import sys

from merging.predecessor import predict

if __name__ == "__main__":
    sys.exit(predict(sys.argv[1:]))
