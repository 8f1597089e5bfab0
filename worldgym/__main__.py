"""``python -m worldgym`` is the command ``worldgym``."""

import sys

from worldgym.cli import main

if __name__ == "__main__":
    sys.exit(main())
