"""`python -m lmctl`."""

import sys

from lmctl.cli import main

if __name__ == "__main__":
    sys.exit(main())
