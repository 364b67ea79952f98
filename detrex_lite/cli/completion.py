"""`detrex-lite completion`."""

import argparse

NAME = "completion"
SUMMARY = "Print what a shell needs to complete commands, options, models and files."
DESCRIPTION = """
Needs shtab: pip install 'detrex-lite[completion]'. What is printed has the names of models and checkpoints in it: write
it anew after an update.
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
