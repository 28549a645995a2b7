"""The flags of `headrace build`, and what it prints."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from headrace_batching import Options
from headrace_server.commands.build_plan import BuildOrder, Built, build
from headrace_server.config.files import read_batching_parameters
from headrace_server.config.tensorrt import TensorrtOptions, ordinals

FLAGS = ("batching_parameters_file", "tensorrt_devices", "tensorrt_cache_folder")
"""Those of `headrace serve` that mean the same here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that `headrace serve` has not."""
    parser.add_argument("version", type=Path, metavar="FOLDER", help="version's folder, which holds model.onnx")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the plan (default: model.plan in FOLDER)")
    parser.add_argument(
        "--inputs",
        type=Path,
        metavar="FILE",
        help=".npz with an array for each input, or .npy for a model of one, to compare on (default: random ones)",
    )
    parser.add_argument(
        "--max_difference",
        type=_positive,
        metavar="FLOAT",
        help="write no plan if an output differs by more from ONNX Runtime's (default: none)",
    )
    parser.add_argument("--runs", type=_whole, metavar="INT", help="runs of each batch size to time (default: 100)")


def run(given: dict[str, Any]) -> str:
    """Builds what the arguments say; what is to be printed.

    Raises:
        ServingError: It cannot be built.
    """
    file = given.pop("batching_parameters_file", "")
    tensorrt = TensorrtOptions(
        devices=ordinals(given.pop("tensorrt_devices", "0")), cache_folder=given.pop("tensorrt_cache_folder", "")
    )
    batching = read_batching_parameters(file) if file else Options()
    return report(build(BuildOrder(**given, batching=batching, tensorrt=tensorrt)))


def report(built: Built) -> str:
    """Accuracy and latency as tables."""
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
            f"Beside ONNX Runtime on the CPU, over {built.tried} rows:",
            *_table(("output", "largest difference", "mean", "largest value", "equal"), differences),
            "",
            "One batch after the other, copies to and from the GPU included:",
            *_table(("rows", "median ms", "p99 ms", "rows/s"), latencies),
        ]
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns to the right, but for the first where it is words."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    left = "<" if any(not line[0].isdigit() for line in lines[1:]) else ">"
    sides = [left, *">" * (len(head) - 1)]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True))
        for line in lines
    ]


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is no difference: it must be a number of at least 0")
    return value


def _whole(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)
