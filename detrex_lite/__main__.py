"""`python -m detrex_lite COMMAND`: the program `detrex-lite`."""

import sys

from detrex_lite.cli import program

if __name__ == "__main__":
    sys.exit(program())
