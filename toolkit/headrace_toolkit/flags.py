"""The flags of the toolkit's commands, one entry each, in the groups that `--help` shows."""

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace_toolkit.ranges import LARGEST_SEED, LARGEST_VERSION, MOST_CALLS, MOST_SECONDS

Read = Callable[[str], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One flag.

    Attributes:
        names: The names with their hyphens; the first one is the usual one.
        help: The text in `--help`.
        metavar: The placeholder of its value.
        read: Parses a value; None for a string.
        into: The name under which the command finds the value; empty for the flag's own.
        choices: The allowed values; empty means any.
        switch: Whether it may be given without a value, which means true.
        many: Whether it may be given several times.
        required: Whether it must be given.
    """

    names: tuple[str, ...]
    help: str
    metavar: str | None = None
    read: Read | None = None
    into: str = ""
    choices: tuple[str, ...] = ()
    switch: bool = False
    many: bool = False
    required: bool = False

    def add_to(self, group: Any) -> None:
        """Adds the flag to a group of an argparse parser."""
        arguments: dict[str, Any] = {"help": self.help, "metavar": self.metavar}
        arguments |= {"type": self.read} if self.read else {}
        arguments |= {"dest": self.into} if self.into else {}
        arguments |= {"choices": self.choices} if self.choices else {}
        arguments |= {"nargs": "?", "const": True} if self.switch else {}
        arguments |= {"action": "append"} if self.many else {}
        arguments |= {"required": True} if self.required else {}
        group.add_argument(*self.names, **arguments)


def boolean(flag: str) -> Read:
    """Parses a flag that is true or false, as everywhere in headrace."""

    def read(text: str) -> bool:
        try:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        except KeyError:
            raise argparse.ArgumentTypeError(f"--{flag} must be true or false; was {text!r}") from None

    return read


def whole(flag: str, least: int, most: int | None = None) -> Read:
    """Parses a flag that is an integer."""
    span = f"of at least {least}" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        value = _digits(text)
        if value is None or value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"--{flag} must be a whole number {span}; was {text}")
        return value

    return read


def _digits(text: str) -> int | None:
    """The number in a text of ASCII digits; None for any other text, or for more digits than Python converts."""
    try:
        return int(text) if text.isascii() and text.isdigit() else None
    except ValueError:
        return None


def number(flag: str, most: float = math.inf) -> Read:
    """Parses a flag that is a finite number of at least 0."""
    span = "of at least 0" if most == math.inf else f"from 0 to {most:g}"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not 0 <= value <= most:
            raise argparse.ArgumentTypeError(f"--{flag} must be a finite number {span}; was {text}")
        return value

    return read


def seconds_of_work(text: str) -> float:
    """Parses how long a command may measure.

    Raises:
        ArgumentTypeError: The text is not a finite number above 0.
    """
    value: float = number("seconds", MOST_SECONDS)(text)
    if not value:
        raise argparse.ArgumentTypeError(f"--seconds must be a finite number above 0; was {text}")
    return value


def _rows_or_file(text: str) -> Any:
    return whole("calibration", 1)(text) if text.lstrip("-").isdecimal() else text


def _switch(name: str, text: str) -> Flag:
    return Flag(names=(f"--{name}",), help=text, metavar="true|false", read=boolean(name), switch=True)


MODEL = (
    Flag(
        names=("--signature",),
        metavar="NAME=SPEC",
        many=True,
        help="an input that the source does not describe itself, as in image=float32[N,1,8,8]; once for each input",
    ),
    Flag(names=("--outputs",), metavar="NAMES", help="names for the outputs, in order, separated by commas"),
    Flag(
        names=("--build",),
        metavar="FILE.py:FUNCTION",
        help="function that returns the PyTorch module to load a file of weights into",
    ),
    _switch(
        "trust_pickle",
        "load .pkl, .joblib and whole .pt files. Loading one runs any code that its author put into it: use it only "
        "for files that you would run as a program (default: false)",
    ),
)

ROWS = (
    Flag(
        names=("--data", "--inputs"),
        into="rows",
        metavar="FILE",
        help="rows to compare and measure on: .npz with an array for each input, .npy, .csv, or file.py:function that "
        "returns a dictionary of arrays (default: random rows)",
    ),
    Flag(names=("--labels",), metavar="NAME", help="array or column of that file with the labels"),
    Flag(
        names=("--metric",),
        metavar="NAME",
        help="accuracy, r2, mean_squared_error, cosine, or file.py:function (default: the one that fits the labels; "
        "without labels, the cosine with the source's answers)",
    ),
    Flag(
        names=("--metric_output",),
        into="output",
        metavar="NAME",
        help="output that the metric is computed from (default: the one that fits)",
    ),
    Flag(
        names=("--seed",),
        read=whole("seed", 0, LARGEST_SEED),
        metavar="INT",
        help="seed for all random numbers (default: 0)",
    ),
)

TIMES = (
    Flag(
        names=("--timing_seconds",),
        read=number("timing_seconds", MOST_SECONDS),
        metavar="FLOAT",
        help="CPU seconds to spend on timing, for each number of rows (default: 1.5)",
    ),
)

_CALIBRATION = Flag(
    names=("--calibration",),
    read=_rows_or_file,
    metavar="INT|FILE",
    help="how many of the rows are used for calibration and not for measurements, at most half; or a "
    "file of other rows to calibrate on (default: 256)",
)

FORMAT = (
    Flag(
        names=("--to",),
        choices=("onnx", "tflite"),
        help="the format of the version; tflite is for Keras models and SavedModels (default: onnx)",
    ),
    Flag(
        names=("--form",),
        choices=("float", "dynamic", "half", "int8"),
        help="with --to=tflite: float; dynamic, with 8-bit weights; half, with 16-bit weights; int8, with 8-bit "
        "weights and activations, which needs --data (default: float)",
    ),
    _CALIBRATION,
)

SEARCH = (
    Flag(
        names=("--load",),
        read=whole("load", 1, MOST_CALLS),
        metavar="INT",
        help="measure in headrace's own batches, with this many calls of one row each in flight: candidates are "
        "chosen by CPU time per row, and batch threads and sizes are suggested (default: measure the model alone)",
    ),
    Flag(
        names=("--batching_file",),
        metavar="FILE",
        help="write the suggested batching parameters to this file, for --batching_parameters_file; needs --load",
    ),
    _CALIBRATION,
    Flag(
        names=("--train",),
        metavar="FILE",
        help="rows to train on, with labels of the same name: a PyTorch module from file.py:function is then tried "
        "with fewer channels, too, and some of the rows are used for calibration (default: nothing is trained)",
    ),
    Flag(
        names=("--max_drop",),
        read=number("max_drop"),
        metavar="FLOAT",
        help="how much worse the metric may be, in percentage points if it is a share, such as accuracy, "
        "otherwise in percent (default: 0.5)",
    ),
    Flag(
        names=("--min_speedup",),
        read=number("min_speedup"),
        metavar="FLOAT",
        help="speed that the model must reach, as a multiple of the original's (default: not slower)",
    ),
    Flag(
        names=("--target",),
        choices=("x86", "vnni", "arm64", "gpu"),
        help="the machine that will run the model: x86 takes 7-bit weights, which are exact on every CPU; vnni and "
        "arm64 take "
        "8-bit weights; gpu tries half floats (default: x86)",
    ),
)

VERSION = (
    Flag(
        names=("--version",),
        read=whole("version", 1, LARGEST_VERSION),
        metavar="INT",
        help="number of the new version (default: one more than the highest)",
    ),
    _switch(
        "batch",
        "false publishes a model whose rows influence each other, with batching turned off (default: true)",
    ),
    Flag(
        names=("--sign",),
        metavar="KEY",
        help="sign the version with the private key in this PEM file, as `headrace sign` does",
    ),
    _switch("dry_run", "publish nothing (default: false)"),
)

_JSON = Flag(names=("--json",), metavar="FILE", help="write all figures to this file")

REPORT = (
    _JSON,
    Flag(names=("--png",), metavar="FILE", help="write a chart to this file"),
    Flag(names=("--html",), metavar="FILE", help="write a self-contained page to this file"),
)

EXPLAIN = (
    Flag(
        names=("--repeats",),
        read=whole("repeats", 1, MOST_CALLS),
        metavar="INT",
        help="how often each feature is shuffled (default: 5)",
    ),
    _JSON,
)

TUNE = (
    Flag(
        names=("--objective",),
        metavar="TEXT",
        help="the share of requests to answer within a time, such as 'p99 20ms'",
        required=True,
    ),
    Flag(names=("--data",), into="rows", metavar="FILE", help="rows to run, .npz or .csv (default: random ones)"),
    Flag(
        names=("--seconds",),
        read=seconds_of_work,
        metavar="FLOAT",
        help="about how many seconds the command may take (default: 60)",
    ),
    _switch(
        "write",
        "write model.toml next to the version and batching_params.pbtxt into it, unless they exist (default: false)",
    ),
)

PACKAGE = (
    Flag(
        names=("--as",),
        into="kind",
        choices=("docker", "mlflow"),
        required=True,
        help="docker writes a Dockerfile next to the version; mlflow writes what mlflow.onnx.load_model reads",
    ),
)

Groups = Mapping[str, tuple[Flag, ...]]
