"""`detrex-lite benchmark` as `python -m detrex_lite.tools.benchmark`."""

import sys

from detrex_lite.cli import program

if __name__ == "__main__":
    sys.exit(program("benchmark"))
