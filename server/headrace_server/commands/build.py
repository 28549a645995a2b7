"""The flags and the output of `headrace build`."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace_batching import Options
from headrace_batching.option import refusals
from headrace_server.commands.build_plan import BuildOrder, Built, build
from headrace_server.commands.ending import status_of_run
from headrace_server.commands.flags import FLAGS as ALL_FLAGS
from headrace_server.commands.flags import argument, config_of
from headrace_server.commands.log import log_to_stderr
from headrace_server.config.files import read_batching_parameters
from headrace_server.config.flag import flag, flags_of, name_of_flag
from headrace_server.config.tensorrt import TensorrtOptions
from headrace_server.errors import invalid

FLAGS = (
    "batching_parameters_file",
    *(name for name in flags_of(TensorrtOptions, "tensorrt_") if name != "tensorrt"),
)
"""The flags of `headrace serve` that mean the same here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _OwnFlags:
    """Flags that `headrace serve` does not have."""

    output: str = flag("", "file to write the plan to (default: model.plan in FOLDER)")
    inputs: str = flag(
        "",
        "inputs to compare on: .npz with an array for each input, or .npy for a single input (default: random)",
    )
    max_difference: float | None = flag(
        None,
        "write no plan if an output differs from ONNX Runtime's by more than this",
        kind=float,
        least=0,
        nullable=True,
    )
    runs: int = flag(100, "timed runs of each batch size", least=1)


def add_command(commands: Any) -> None:
    """Adds the command to those of `headrace`.

    Args:
        commands: The object that `ArgumentParser.add_subparsers` returned.
    """
    parser = commands.add_parser(
        "build",
        help="build a TensorRT plan of an ONNX model",
        usage="headrace build FOLDER [--output=FILE] [--inputs=FILE] [flags]",
        description="Build a TensorRT plan of the model.onnx in a version's folder, for this machine's GPU and with "
        "the options in the model.toml next to the folder; compare its answers with ONNX Runtime's, and time its "
        "batches.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.set_defaults(command=_build, command_parser=parser)
    parser.add_argument("version", type=Path, metavar="FOLDER", help="the version's folder, which holds model.onnx")
    for name, own in (flags_of(_OwnFlags) | {name: ALL_FLAGS[name] for name in FLAGS}).items():
        parser.add_argument(f"--{name}", **argument(name, own))


def _build(parser: argparse.ArgumentParser, values: dict[str, Any]) -> int:
    del parser
    log_to_stderr()
    return status_of_run("cannot build", lambda: print(run(values)))


def run(given: dict[str, Any]) -> str:
    """Builds the plan that the arguments describe, and returns the text to print.

    Raises:
        ServingError: The plan cannot be built.
    """
    file = given.pop("batching_parameters_file", "")
    shared = {name: given.pop(name) for name in FLAGS if name in given}
    tensorrt = config_of(shared).tensorrt
    for text in refusals(tensorrt, lambda own: f"--{name_of_flag(own, 'tensorrt_')}"):
        raise invalid(text)
    batching = read_batching_parameters(file) if file else Options()
    given |= {name: Path(given[name]) for name in ("output", "inputs") if name in given}
    return report(build(BuildOrder(**given, batching=batching, tensorrt=tensorrt)))


def report(built: Built) -> str:
    """The accuracy and the latency, as tables."""
    differences = [
        (d.output, f"{d.largest:.3g}", f"{d.mean:.3g}", f"{d.scale:.3g}", f"{d.equal:.2%}") for d in built.differences
    ]
    latencies = [
        (str(x.rows), f"{x.median * 1e3:.3f}", f"{x.p99 * 1e3:.3f}", f"{x.rows / x.median:,.0f}")
        for x in built.latencies
    ]
    return "\n".join(
        [
            f"{built.plan}: {built.size / 1e6:,.1f} MB in {built.seconds:,.1f} s",
            "",
            f"Compared with ONNX Runtime on the CPU, over {built.tried} rows:",
            *_table(("output", "largest difference", "mean", "largest value", "equal"), differences),
            "",
            "One batch at a time, including the copies to and from the GPU:",
            *_table(("rows", "median ms", "p99 ms", "rows/s"), latencies),
        ]
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Aligns columns to the right, except a first column of words."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    left = "<" if any(not line[0].isdigit() for line in lines[1:]) else ">"
    sides = [left, *">" * (len(head) - 1)]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True))
        for line in lines
    ]
