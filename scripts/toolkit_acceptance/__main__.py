"""Runs the toolkit's acceptance checks one after the other, and prints or writes a table of the results."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from headrace_toolkit.machine import this_machine, versions
from scripts.toolkit_acceptance import serving, sources, steps, training
from scripts.toolkit_acceptance.scene import Scene, Skipped

CHECKS: Mapping[int, Callable[[Scene], str]] = {
    1: steps.libraries,
    2: training.torch_sources,
    3: sources.keras,
    4: sources.boosters,
    5: sources.estimators,
    6: serving.served,
    7: steps.search_of_a_perceptron,
    8: steps.search_of_convolutions,
    9: steps.search_of_depthwise_convolutions,
    10: steps.one_bright_row,
    11: steps.half,
    12: steps.sharing,
    13: training.zeros,
    14: training.schedule,
    15: training.fewer_channels,
    16: training.student,
    17: sources.importances,
    18: steps.sentence_encoder,
    19: serving.bad_inputs,
    20: serving.watched_and_killed,
    21: serving.nothing_private,
    22: steps.same_bytes,
    23: serving.start_up,
    24: steps.memory,
}
"""The checks, by their numbers in the toolkit's specification; each returns a description, or raises AssertionError."""


def main() -> int:
    """The exit status: 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, help="a folder with your own models, instead of the generated ones")
    parser.add_argument("--encoder", type=Path, help="a folder with model.onnx and rows.npz of a sentence encoder")
    parser.add_argument("--only", help="numbers of checks, separated by commas")
    parser.add_argument("--write", type=Path, help="a Markdown file for the table")
    given = parser.parse_args()
    wanted = [int(number) for number in given.only.split(",")] if given.only else list(CHECKS)
    rows, failed = [], 0
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), given.models, given.encoder)
        for number in wanted:
            verdict, seen, seconds = _checked(CHECKS[number], scene)
            failed += verdict == "FAILED"
            rows.append(f"| {number} | {_sentence(CHECKS[number])} | {verdict} | {seen} |")
            print(f"{number:3} {verdict:7} {seconds:5.0f} s  {seen}", flush=True)
    print(f"{len(rows) - failed} held, {failed} failed")
    if given.write:
        given.write.write_text(_page(rows), encoding="utf-8")
    return 1 if failed else 0


def _checked(check: Callable[[Scene], str], scene: Scene) -> tuple[str, str, float]:
    began = time.monotonic()
    try:
        verdict, seen = "held", check(scene)
    except Skipped as reason:
        verdict, seen = "skipped", str(reason)
    except Exception as error:  # an exception in one check does not stop the others
        verdict, seen = "FAILED", " ".join(f"{'' if isinstance(error, AssertionError) else error!r} {error}".split())
    return verdict, seen, time.monotonic() - began


def _sentence(check: Callable[[Scene], str]) -> str:
    return (check.__doc__ or "").partition(": ")[2].rstrip(".")


def _page(rows: list[str]) -> str:
    machine, found = this_machine(), versions()
    libraries = ", ".join(
        f"{name} {found[name]}" for name in ("python", "onnxruntime", "onnx", "numpy", "scikit-learn") if name in found
    )
    return (
        "# Results of the toolkit's acceptance checks\n\n"
        "Written by `make toolkit-acceptance ARGS='--write docs/toolkit/acceptance.md'`. "
        f"{machine.architecture} with {', '.join(machine.flags)}; {libraries}. Times are ratios of the CPU time of one "
        "thread; drops are in percentage points.\n\n| # | check | | observed |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
