"""`detrex-lite completion`."""

import argparse

NAME = "completion"
SUMMARY = "Print a script with which a shell completes commands, options, models and files."
DESCRIPTION = """
Needs shtab: pip install 'detrex-lite[completion]'. The script contains the names of models and checkpoints: create it
again after an update.
"""
EXAMPLES = (
    ("bash", "bash > ~/.local/share/bash-completion/completions/detrex-lite"),
    ("zsh, in a folder of $fpath", "zsh > ~/.zfunc/_detrex-lite"),
    ("fish", "fish > ~/.config/fish/completions/detrex-lite.fish"),
)
RUN = "detrex_lite.commands.completion.run"

SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help=", ".join(SHELLS))
