"""`python -m blockvault`: the same as the command `blockvault`."""

import sys

from blockvault.cli import main

if __name__ == "__main__":
    sys.exit(main())
