"""The predecessor's entry point; see ``merging/predecessor``."""

import sys

from merging.predecessor import task_arithmetic

if __name__ == "__main__":
    sys.exit(task_arithmetic(sys.argv[1:]))
