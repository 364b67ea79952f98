"""`detrex-lite train` as a script."""

import sys

from detrex_lite.cli import program

if __name__ == "__main__":
    sys.exit(program("train"))
