"""The command line: `detrex-lite COMMAND`, `python -m detrex_lite COMMAND`, and the scripts in tools/.

Each command has a module here, which says what it is called, what it takes and what runs it, and a module of the same
name in `detrex_lite.commands`, which runs. Modules here import no package but argparse and `detrex_lite.errors`, so
that help and wrong arguments are answered at once: importing torch takes seconds.
"""

from .program import main, parser_of, program
from .registry import COMMANDS

__all__ = ["COMMANDS", "main", "parser_of", "program"]
