"""``python -m merging`` and the console script ``merging``."""

import sys

from merging.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
