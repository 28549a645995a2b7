"""The `tensorflow_model_server` command: its flags, output and exit statuses are exactly the original's."""

import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from headrace_protos import Code
from headrace_server.commands.flags import FLAGS, config_of, value_of, warn_of_ignored
from headrace_server.commands.log import log_to_stderr
from headrace_server.commands.process import run
from headrace_server.config.run import Config
from headrace_server.errors import ServingError, invalid, status_of

log = logging.getLogger(__name__)

FAILED = 255  # how a shell sees a C++ program's `return -1`

_FLAG = re.compile(r"--(?P<name>\w+)(?P<value>=.*)?", re.DOTALL)
_WHOLE = re.compile(r"\s*[+-]?[0-9]+", re.ASCII)
_BOOLEANS = {"": True, "=true": True, "=false": False, "=1": True, "=0": False}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the `tensorflow_model_server` command and returns its exit status, as in TF Serving's main.cc."""
    log_to_stderr()
    parsed = parse(sys.argv[1:] if arguments is None else arguments)
    for complaint in parsed.complaints:
        print(complaint, file=sys.stderr)
    if parsed.complaints or parsed.unknown[:1] == ["--help"]:
        print(usage(), end="")
        return FAILED
    if parsed.values.pop("version", False):
        print(f"TensorFlow ModelServer: {_version('headrace')}\nTensorFlow Library: {_version('tensorflow')}")
        return 0
    log_to_stderr(value_of("log_level", parsed.values), value_of("log_format", parsed.values))
    if parsed.unknown:
        print(f"unknown argument: {parsed.unknown[0]}\n{usage()}", end="", flush=True)
    return _serve(parsed.values)


@dataclass
class Parsed:
    """A parsed command line.

    Attributes:
        values: The last value given for each flag, by name, including `version`.
        unknown: The arguments that are not flags, in order.
        complaints: A line for each flag whose value is not valid.
    """

    values: dict[str, Any] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


def parse(arguments: Sequence[str]) -> Parsed:
    """Parses a command line, as in TensorFlow's command_line_flags.cc."""
    parsed = Parsed()
    for position, argument in enumerate(arguments):
        if argument == "--":
            parsed.unknown += arguments[position:]
            break
        _parse_one(argument, parsed)
    return parsed


def usage() -> str:
    """The usage text: every flag with its default, type and description.

    TensorFlow's command_line_flags.cc does the same.
    """
    lines = [f"usage: {sys.argv[0]}", "Flags:", *map(_usage_of, FLAGS)]
    lines.append(_usage_line("version=false", "bool", "print the version and exit"))
    return "\n".join(lines) + "\n"


def _serve(values: dict[str, Any]) -> int:
    defaults = {name: flag.metadata["tensorflow"] for name, flag in FLAGS.items()}
    config = config_of({**defaults, **values, "grpc_channel_arguments": _well_formed(values)}, pad_unproved=True)
    warn_of_ignored(values)
    try:
        _check_port(config)
        run(config)
    except ServingError as error:
        code, text = status_of(error)
        print(f"Failed to start server. Error: {Code.Name(code)}: {text}")
        return FAILED
    return 0


def _well_formed(values: dict[str, Any]) -> str:
    """The channel arguments except those without a value; for these the original would read out of bounds."""
    items = str(values.get("grpc_channel_arguments", "")).split(",")
    for item in filter(None, items):
        if "=" not in item:
            log.warning("--grpc_channel_arguments: %r is ignored: it is not of the form key=value", item)
    return ",".join(item for item in items if "=" in item)


def _check_port(config: Config) -> None:
    """Refuses port 0 without a UNIX socket, as TF Serving's server.cc does; `headrace serve` then takes a free port."""
    if not (config.port or config.grpc_socket_path):
        raise invalid("At least one of server_options.grpc_port or server_options.grpc_socket_path must be set.")


def _parse_one(argument: str, parsed: Parsed) -> None:
    match = _FLAG.fullmatch(argument)
    kind = _kind(match["name"]) if match else None
    if match is None or kind is None or (kind != "bool" and match["value"] is None):
        parsed.unknown.append(argument)
        return
    value = match["value"] or ""
    shown = value if kind == "bool" else value[1:]
    try:
        parsed.values[match["name"]] = _read(kind, shown)
    except ValueError:
        parsed.complaints.append(f"Couldn't interpret value {shown} for flag {match['name']}.")


def _kind(name: str) -> str | None:
    """The type of a flag as the usage text names it; None for an option that is not a flag."""
    if name == "version":
        return "bool"
    flag = FLAGS.get(name)
    if flag is None:
        return None
    if type(flag.default) is int:
        return "int64" if flag.metadata["int64"] else "int32"
    return {bool: "bool", float: "float", str: "string", tuple: "string"}[type(flag.default)]


def _read(kind: str, text: str) -> Any:
    match kind:
        case "bool" if text in _BOOLEANS:
            return _BOOLEANS[text]
        case "int32" | "int64" if _WHOLE.fullmatch(text) and _fits(int(text), 32 if kind == "int32" else 64):
            return int(text)
        case "float" if "_" not in text:
            return float(text)
        case "string":
            return text
    raise ValueError(text)


def _fits(value: int, bits: int) -> bool:
    return -(1 << bits - 1) <= value < 1 << bits - 1


def _usage_of(name: str) -> str:
    default, kind = FLAGS[name].metadata["tensorflow"], str(_kind(name))
    match kind:
        case "bool":
            default = str(default).lower()
        case "string":
            default = f'"{",".join(map(str, default)) if isinstance(default, tuple) else default}"'
        case "float":
            default = f"{default:f}"
    return _usage_line(f"{name}={default}", kind, FLAGS[name].metadata["help"])


def _usage_line(flag: str, kind: str, text: str) -> str:
    return f"\t--{flag:<33}\t{kind}\t{text}"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
