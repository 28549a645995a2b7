"""`headrace completion`: prints the script with which a shell completes headrace's commands and flags."""

import argparse
from functools import partial
from typing import Any

SHELLS = ("bash", "zsh", "tcsh")


def add_command(commands: Any, root: argparse.ArgumentParser) -> None:
    """Adds the command to those of `headrace`.

    Args:
        commands: The object that `ArgumentParser.add_subparsers` returned.
        root: The parser of `headrace` itself, which knows the commands and flags.
    """
    parser = commands.add_parser(
        "completion",
        help="print a script that makes a shell complete commands and flags",
        description="Print a script that makes a shell complete commands and flags. For bash:\n"
        "  headrace completion bash > ~/.local/share/bash-completion/completions/headrace",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(command=partial(_completion, root), command_parser=parser)


def _completion(root: argparse.ArgumentParser, parser: argparse.ArgumentParser, values: dict[str, Any]) -> int:
    del parser
    import shtab

    print(shtab.complete(root, values["shell"]))
    return 0
