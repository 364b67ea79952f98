"""The command line: `detrex-lite COMMAND`, `python -m detrex_lite COMMAND`, and the scripts in tools/.

Each command has a module here, which declares its name, its arguments and the function that runs it, and a module of
the same name in `detrex_lite.commands` with that function. Modules here import only argparse and `detrex_lite.errors`,
so that help and errors in arguments appear at once: importing torch takes seconds.
"""

from .program import main, parser_of, program
from .registry import COMMANDS

__all__ = ["COMMANDS", "main", "parser_of", "program"]
