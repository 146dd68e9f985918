"""``python -m crystalgfn``."""

import sys

from crystalgfn.cli import main

if __name__ == "__main__":
    sys.exit(main())
