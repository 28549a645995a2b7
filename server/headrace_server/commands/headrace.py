"""The `headrace` command, strict and kind: a flag that it does not know is an error, with the one that was meant."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any, NoReturn

from headrace_protos import Code
from headrace_server.commands import build as build_command
from headrace_server.commands.flags import FLAGS, argument, config_of, warn_of_ignored
from headrace_server.commands.process import log_to_stderr, run
from headrace_server.errors import ServingError, status_of
from headrace_toolkit.command import add_commands

_OF_ARGUMENT = re.compile(r"^argument --\w+: (?=--)")


def main(arguments: Sequence[str] | None = None) -> int:
    """The `headrace` command; returns its exit status."""
    parser = _parser()
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        given.command_parser.error(_explain(unknown[0], given.command_parser))
    values = {name: value for name, value in vars(given).items() if name not in ("command", "command_parser")}
    command: Callable[[argparse.ArgumentParser, dict[str, Any]], int] = given.command
    return command(given.command_parser, values)


def _serve(parser: argparse.ArgumentParser, values: dict[str, Any]) -> int:
    if not (values.get("model_base_path") or values.get("model_config_file")):
        parser.error("no model: name the folder of its numbered versions with --model_base_path")
    if values.get("model_name") == "" and not values.get("model_config_file"):
        parser.error("no name: requests cannot ask for a model with an empty --model_name")
    log_to_stderr()
    warn_of_ignored(values)
    return _status("cannot start", lambda: run(config_of(values)))


def _build(parser: argparse.ArgumentParser, values: dict[str, Any]) -> int:
    del parser
    log_to_stderr()
    return _status("cannot build", lambda: print(build_command.run(values)))


def _status(failing: str, act: Callable[[], None]) -> int:
    """Acts; the exit status, and what failed on stderr."""
    try:
        act()
    except ServingError as error:
        code, text = status_of(error)
        print(f"headrace: {failing}: {Code.Name(code)}: {text}", file=sys.stderr)
        return 1
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser whose errors end in a hint rather than in the whole usage."""

    def error(self, message: str) -> NoReturn:
        message = _OF_ARGUMENT.sub("", message)  # the refusal behind it names the flag already
        self.exit(2, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="headrace", description="Serve models over TensorFlow Serving's gRPC and REST APIs.")
    parser.add_argument("--version", action="version", version=f"headrace {version('headrace')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve models",
        usage="headrace serve --model_base_path=FOLDER [--model_name=NAME] [--port=PORT] [flags]",
        description="Serve models until SIGTERM.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,  # only what is given is named in the result
    )
    serve.set_defaults(command=_serve, command_parser=serve)
    taken = serve.add_argument_group("flags")
    ignored = serve.add_argument_group("flags of TensorFlow Serving that change nothing here")
    for name, field in FLAGS.items():
        (ignored if field.metadata["ignored"] else taken).add_argument(f"--{name}", **argument(name, field))
    build = commands.add_parser(
        "build",
        help="build a TensorRT plan of an ONNX model",
        usage="headrace build FOLDER [--output=FILE] [--inputs=FILE] [flags]",
        description="Build a TensorRT plan of the model.onnx in a version's folder, for the GPU at hand and as "
        "model.toml beside the folder says; compare its answers with ONNX Runtime's, and time its batches.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    build.set_defaults(command=_build, command_parser=build)
    build_command.add_arguments(build)
    for name in build_command.FLAGS:
        build.add_argument(f"--{name}", **argument(name, FLAGS[name]))
    add_commands(commands)
    return parser


def _explain(argument: str, parser: argparse.ArgumentParser) -> str:
    name = argument.lstrip("-").partition("=")[0]
    if not argument.startswith("-"):
        return f"unexpected argument {argument!r}"
    known = [option.removeprefix("--") for action in parser._actions for option in action.option_strings]  # noqa: SLF001
    close = get_close_matches(name, known, n=1)
    return f"unknown flag --{name}" + (f"; did you mean --{close[0]}?" if close else "")
