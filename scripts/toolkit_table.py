"""Measures the effect of each step on four small models on this machine, and writes docs/toolkit/table.md."""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace_toolkit.machine import this_machine, versions
from scripts.toolkit_acceptance.scene import SHAPES, Scene, drop, share

HEADS: Mapping[str, str] = {
    "mlp": "perceptron 64-512-512-10",
    "cnn": "three convolutions",
    "resnet": "residual blocks",
    "mobile": "depthwise convolutions",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table.

    Attributes:
        name: A description of the step.
        keys: The step's table in a recipe.
        target: The target in the recipe.
    """

    name: str
    keys: str
    target: str = "x86"


ROWS = (
    Row("dynamic int8, a scale per row, 7 bits", 'kind = "quantize"\nmethod = "dynamic"'),
    Row("dynamic int8 with ONNX Runtime's defaults", 'kind = "quantize"\nmethod = "dynamic"\nper_row = false'),
    Row("static int8, percentile, 7 bit", 'kind = "quantize"\nmethod = "static"'),
    Row("static int8, percentile, 8 bit", 'kind = "quantize"\nmethod = "static"', "vnni"),
    Row("static int8, minmax, 7 bit", 'kind = "quantize"\nmethod = "static"\ncalibrate = "minmax"'),
    Row("half floats", 'kind = "half"'),
    Row("k-means, 256 values", 'kind = "share"\nvalues = 256'),
    Row("k-means, 16 values", 'kind = "share"\nvalues = 16'),
    Row("90% of the weights zero, not fine-tuned", 'kind = "prune"\namount = 0.9'),
    Row("clean-up of the graph", 'kind = "simplify"'),
)


def main() -> int:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, default=Path("docs/toolkit/table.md"))
    parser.add_argument("--models", type=Path, help="a folder with your own models, instead of the generated ones")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), given.models)
        rows = [_row(scene, row) for row in ROWS]
    given.write.write_text(_page(rows), encoding="utf-8")
    return 0


def _row(scene: Scene, row: Row) -> str:
    cells = []
    for name in SHAPES:
        run = scene.steps(name, f"[[step]]\n{row.keys}\n", target=row.target)
        step = run.report["steps"][2]
        cells.append(f"{share(run, step):.2f}, **{step['time']['32']:.2f}**, {step['time']['1']:.2f}, "
                     f"{drop(run, step):.1f}")  # fmt: skip
        print(f"{row.name}, {name}: {cells[-1]}", flush=True)
    return f"| {row.name} | {' | '.join(cells)} |"


def _page(rows: list[str]) -> str:
    machine, found = this_machine(), versions()
    return (
        "# The effect of each step\n\n"
        "Written by `make toolkit-table`. Machine: "
        f"{machine.architecture} with {', '.join(machine.flags)}; onnxruntime {found['onnxruntime']}. Each cell has "
        "the bytes, the **time of 32 rows** and the time of one row as shares of the converted model's (CPU time, "
        "one thread, taking turns), and percentage points of accuracy lost over 540 digits. The models are generated "
        "in seconds: all layers except the last are random, which suffers more from rounding than trained layers "
        "do.\n\n"
        f"| step | {' | '.join(HEADS[name] for name in SHAPES)} |\n|---|{'---|' * len(SHAPES)}\n"
        + "\n".join(rows)
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
