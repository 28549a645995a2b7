"""The command line of `headrace`: an unknown flag is an error that suggests the flag that was probably meant."""

import argparse
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any, NoReturn

from headrace_client.bench import command as bench
from headrace_server.commands import build, call, completion, doctor, keys, models, profile, serve, sign
from headrace_toolkit.command import add_commands

_OF_PARSER = ("command", "command_parser", "further")
"""The values of a command line that are not arguments, but describe the command's parser."""

_OF_ARGUMENT = re.compile(r"^argument --\w+: (?=--)")


def run_command(arguments: Sequence[str]) -> int:
    """Runs a command line and returns the exit status."""
    parser = _parser()
    given, unknown = parser.parse_known_args(arguments)
    values = {name: value for name, value in vars(given).items() if name not in _OF_PARSER}
    unknown = _without_further(values, getattr(given, "further", ""), unknown)
    if unknown:
        given.command_parser.error(_explain(unknown[0], given.command_parser))
    command: Callable[[argparse.ArgumentParser, dict[str, Any]], int] = given.command
    return command(given.command_parser, values)


def _without_further(values: dict[str, Any], name: str, unknown: list[str]) -> list[str]:
    """Adds the arguments after a flag, where argparse stops, to those before the flag; returns the rest.

    Args:
        values: The values that argparse has parsed.
        name: The value that holds any number of arguments; empty if the command has none.
        unknown: The arguments that argparse has not recognised.
    """
    if name and not any(argument.startswith("-") for argument in unknown):
        values[name] = [*values.get(name, ()), *unknown]
        return []
    return unknown


class _Parser(argparse.ArgumentParser):
    """A parser whose errors end with a hint instead of the whole usage text."""

    def error(self, message: str) -> NoReturn:
        message = _OF_ARGUMENT.sub("", message)  # the rest of the error names the flag, too
        self.exit(2, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="headrace",
        description="Serve models over TensorFlow Serving's gRPC and REST APIs and the Open Inference Protocol.",
        epilog="To begin: `headrace serve iris.onnx --rest_api_port=8501`. It prints what to type next, and shows a "
        "live page at http://localhost:8501/. `headrace COMMAND --help` describes a command.",
    )
    parser.add_argument("--version", action="version", version=f"headrace {version('headrace')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (serve, call, models, bench, keys, sign, profile, doctor, build):
        command.add_command(commands)
    add_commands(commands)
    completion.add_command(commands, parser)
    return parser


def _explain(argument: str, parser: argparse.ArgumentParser) -> str:
    name = argument.lstrip("-").partition("=")[0]
    if not argument.startswith("-"):
        return f"unexpected argument {argument!r}"
    known = [option.removeprefix("--") for action in parser._actions for option in action.option_strings]  # noqa: SLF001
    close = get_close_matches(name, known, n=1, cutoff=0.7)
    return f"unknown flag --{name}" + (f"; did you mean --{close[0]}?" if close else "")
