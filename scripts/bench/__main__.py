"""Runs the benchmarks and writes their report: python -m scripts.bench, from the root of the checkout."""

import argparse
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import chart, machine
from .cases import CASES
from .contenders import Contender, contenders
from .load import h2load_version
from .measure import Budget, Results, measure
from .open_inference import Infers, measure_infers
from .report import Measured, report
from .scaling import Scaling, measure_scaling
from .triton import VARIABLE, Triton, find

_ROOT = Path(__file__).parents[2]
_BUILD = _ROOT / "build" / "bench"
_SCALING = "scaling"
_OPEN_INFERENCE = "open_inference"
_FILES = 4096
_NAMES = [*(case.name for case in CASES), _SCALING, _OPEN_INFERENCE]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, writes `benchmarks.png` and `README.md`, and prints the page; returns 2 if h2load is missing."""
    options = _parser().parse_args(arguments)
    if h2load_version() is None:
        print("h2load not found: install nghttp2-client", file=sys.stderr)
        return 2
    described = machine.description()
    budget = Budget(1, 1) if options.quick else Budget(options.rounds, options.seconds)
    _allow_connections()
    servers = contenders(_BUILD)
    results = _measured(options.only, servers, budget)
    scaling = _scaling(options.only, servers, budget)
    infers = _infers(options.only, find(options.triton, _BUILD), budget)
    folder: Path = _BUILD if options.quick and options.output is None else options.output or _ROOT / "docs/benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    if results:
        chart.draw(results, folder / "benchmarks.png")
    text = report(described, budget, Measured(results, scaling, infers))
    (folder / "README.md").write_text(text)
    print(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of one second, reported under build/bench")
    parser.add_argument("--only", type=_names, default=_NAMES, metavar=",".join(_NAMES), help="cases to measure")
    parser.add_argument(
        "--rounds", type=int, default=3, help="number of rounds, in each of which every server is measured once"
    )
    parser.add_argument("--seconds", type=float, default=2.5, help="length of one load")
    parser.add_argument(
        "--triton", help=f"tritonserver, or a Python with nvidia-pytriton, to compare with (default: ${VARIABLE})"
    )
    parser.add_argument("--output", type=Path, help="folder for the report (default: docs/benchmarks)")
    return parser


def _names(text: str) -> list[str]:
    names = text.split(",")
    if not set(names) <= set(_NAMES):
        raise argparse.ArgumentTypeError(f"{text!r} is not of {', '.join(_NAMES)}")
    return names


def _measured(names: Sequence[str], servers: list[Contender], budget: Budget) -> list[Results]:
    results = []
    for case in CASES:
        if case.name in names:
            print(f"measuring {case.name}", file=sys.stderr, flush=True)
            chosen = [server for server in servers if server.infers or case.responders]
            with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
                results.append(measure(case, chosen, budget, Path(folder)))
    return results


def _scaling(names: Sequence[str], servers: list[Contender], budget: Budget) -> Scaling:
    if _SCALING not in names:
        return Scaling()
    print("measuring many connections and many models", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        return measure_scaling(CASES[0], servers, budget, Path(folder))


def _infers(names: Sequence[str], triton: Triton | None, budget: Budget) -> Infers:
    if _OPEN_INFERENCE not in names:
        return Infers()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        return measure_infers(triton, budget, Path(folder))


def _allow_connections() -> None:
    """Allows this process and its children to have thousands of open connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FILES:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (_FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard), hard)
        )


if __name__ == "__main__":
    sys.exit(main())
