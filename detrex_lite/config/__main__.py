"""`python -m detrex_lite.config FILE [overrides]`: the command `detrex-lite config`."""

import sys

from detrex_lite.cli import program

if __name__ == "__main__":
    sys.exit(program("config"))
