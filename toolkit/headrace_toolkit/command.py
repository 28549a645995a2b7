"""The arguments of `headrace convert`, `optimize` and `report`, and what they print.

Importing this costs next to nothing: what a command needs is imported when it runs.
"""

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any

SOURCE_HELP = (
    "the model: a file, a folder with saved_model.pb, or file.py:function, where the function returns the model"
)

Values = dict[str, Any]


def add_commands(commands: Any) -> None:
    """Adds the toolkit's commands to those of `headrace`.

    Args:
        commands: What `ArgumentParser.add_subparsers` returned. Each command sets `command`, called with its parser
            and the values given, which returns the exit status, and `command_parser`.
    """
    convert = _command(
        commands,
        "convert",
        "turn a trained model into ONNX, compare, and publish it",
        "Convert a trained model to ONNX, compare the answers with its framework's own, and publish it as a version.",
        "SOURCE BASE_PATH [--data=FILE] [--labels=NAME] [flags]",
    )
    convert.add_argument("source", metavar="SOURCE", help=SOURCE_HELP)
    convert.add_argument("base", metavar="BASE_PATH", help="the model's folder of numbered versions")
    _add_model_flags(convert)
    _add_data_flags(convert)
    _add_output_flags(convert)
    convert.set_defaults(command=_lazily("run_convert"))
    optimize = _command(
        commands,
        "optimize",
        "find the fastest, smallest form of a model that answers as well, and publish it",
        "Convert a model as `headrace convert` does, try what may make it faster or smaller, measure each, and publish "
        "the best one that meets the limits. With a recipe, do the steps that it names instead.",
        "SOURCE BASE_PATH [--data=FILE] [--labels=NAME] [flags]\n       headrace optimize RECIPE.toml [--dry_run]",
    )
    optimize.add_argument("source", metavar="SOURCE", help=f"{SOURCE_HELP}; or a recipe, a .toml file")
    optimize.add_argument(
        "base", metavar="BASE_PATH", nargs="?", help="the model's folder of numbered versions (a recipe may name it)"
    )
    _add_model_flags(optimize)
    _add_data_flags(optimize)
    _add_search_flags(optimize)
    _add_output_flags(optimize)
    optimize.set_defaults(command=_lazily("run_optimize"))
    report = _command(
        commands,
        "report",
        "measure published versions side by side",
        "Measure versions side by side: the first one is what the others are compared with.",
        "VERSION... [--data=FILE] [--labels=NAME] [--html=FILE]",
    )
    report.add_argument("versions", metavar="VERSION", nargs="+", help="a version's folder, or an ONNX file")
    _add_data_flags(report)
    _add_report_flags(report)
    report.set_defaults(command=_lazily("run_report"))


def _command(commands: Any, name: str, short: str, long: str, usage: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=short,
        usage=f"headrace {name} {usage}",
        description=long,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,  # only what is given is named in the result
    )
    parser.set_defaults(command_parser=parser)
    return parser


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the model")
    group.add_argument(
        "--signature",
        metavar="NAME=SPEC",
        action="append",
        help="an input that the source does not describe itself, as in image=float32[N,1,8,8]; once for each input",
    )
    group.add_argument("--outputs", metavar="NAMES", help="names for the outputs, in order, with commas between them")
    group.add_argument("--build", metavar="FILE.py:FUNCTION", help="makes the module that a file of weights belongs to")
    group.add_argument(
        "--trust_pickle",
        type=boolean("trust_pickle"),
        nargs="?",
        const=True,
        metavar="true|false",
        help="load .pkl, .joblib and whole .pt files. Loading one runs whatever code its author has put in: only for "
        "files that you would run as a program (default: false)",
    )


def _add_data_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the rows")
    group.add_argument(
        "--data",
        "--inputs",
        dest="rows",
        metavar="FILE",
        help="rows to compare and measure on: .npz with an array for each input, .npy, .csv, or file.py:function that "
        "returns a dictionary of arrays (default: random rows)",
    )
    group.add_argument("--labels", metavar="NAME", help="the array or column there that holds the labels")
    group.add_argument(
        "--metric",
        metavar="NAME",
        help="accuracy, r2, mean_squared_error, cosine, or file.py:function (default: what fits the labels; without "
        "any, the cosine with the source's answers)",
    )
    group.add_argument(
        "--metric_output",
        dest="output",
        metavar="NAME",
        help="the output that the metric is of (default: the one that fits)",
    )
    group.add_argument(
        "--timing_seconds",
        type=number("timing_seconds"),
        metavar="FLOAT",
        help="CPU seconds that are spent on times, for each number of rows (default: 1.5)",
    )
    group.add_argument(
        "--seed", type=whole("seed", 0), metavar="INT", help="for whatever is drawn at random (default: 0)"
    )


def _add_search_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the search")
    group.add_argument(
        "--calibration",
        type=_rows_or_file,
        metavar="INT|FILE",
        help="how many of the rows are kept from measuring to calibrate on, half of them at most; or a file of others "
        "(default: 256)",
    )
    group.add_argument(
        "--max_drop",
        type=number("max_drop"),
        metavar="FLOAT",
        help="how much worse the metric may be: points of 100 for a share, else percent (default: 0.5)",
    )
    group.add_argument(
        "--min_speedup",
        type=number("min_speedup"),
        metavar="FLOAT",
        help="how many times as fast it must be (default: not slower)",
    )
    group.add_argument(
        "--target",
        choices=("x86", "vnni", "arm64", "gpu"),
        help="the machine that will run it: x86 takes weights of 7 bits, which are right on all; vnni and arm64 take "
        "8; gpu tries half floats (default: x86)",
    )


def _add_output_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the version")
    group.add_argument(
        "--version",
        type=whole("version", 1),
        metavar="INT",
        help="its number (default: one more than the highest there is)",
    )
    group.add_argument(
        "--batch",
        type=boolean("batch"),
        nargs="?",
        const=True,
        metavar="true|false",
        help="false publishes a model whose rows influence each other, with batching turned off (default: true)",
    )
    group.add_argument(
        "--dry_run",
        type=boolean("dry_run"),
        nargs="?",
        const=True,
        metavar="true|false",
        help="publish nothing (default: false)",
    )
    _add_report_flags(parser)


def _add_report_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the report")
    group.add_argument("--json", metavar="FILE", help="write all numbers there")
    group.add_argument("--png", metavar="FILE", help="write a chart there")
    group.add_argument("--html", metavar="FILE", help="write a page there that needs nothing else")


def _lazily(function: str) -> Callable[[argparse.ArgumentParser, Values], int]:
    """A command whose code is imported when it runs."""

    def run(parser: argparse.ArgumentParser, values: Values) -> int:
        from headrace_toolkit import command_runs
        from headrace_toolkit.errors import ToolkitError

        del parser
        try:
            status: int = getattr(command_runs, function)(values)
        except ToolkitError as error:
            print(f"headrace: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("headrace: interrupted, and nothing published", file=sys.stderr)
            return 130
        return status

    return run


def boolean(flag: str) -> Callable[[str], bool]:
    """Reads a flag that is true or false, as everywhere in headrace."""

    def read(text: str) -> bool:
        try:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        except KeyError:
            raise argparse.ArgumentTypeError(f"--{flag} must be true or false; was {text!r}") from None

    return read


def whole(flag: str, least: int) -> Callable[[str], int]:
    """Reads a flag that is a whole number."""

    def read(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"--{flag} must be a whole number of at least {least}; was {text}")
        return int(text)

    return read


def number(flag: str) -> Callable[[str], float]:
    """Reads a flag that is a finite number of at least 0."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0:
            raise argparse.ArgumentTypeError(f"--{flag} must be a finite number of at least 0; was {text}")
        return value

    return read


def _rows_or_file(text: str) -> int | str:
    return whole("calibration", 1)(text) if text.lstrip("-").isdigit() else text
