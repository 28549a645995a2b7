"""Tests a latency objective: python -m scripts.objective simulate, or ramp, or record, from the checkout."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the chosen command."""
    options = _parser().parse_args(arguments)
    if options.what == "simulate":
        from .simulated import simulate

        return simulate(options.seconds, options.out)
    from .real import Ramp, ramp, record

    if options.what == "record":
        return record(options.seconds)
    plan = Ramp(options.seconds, options.fixed_seconds, options.steps, options.transport)
    return ramp(plan, options.fixed, options.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.objective", description=__doc__)
    what = parser.add_subparsers(dest="what", required=True)
    simulated = what.add_parser("simulate", help="traces on a virtual clock, compared with a sweep of fixed settings")
    simulated.add_argument("--seconds", type=float, default=60.0, help="length of each trace")
    real = what.add_parser(
        "ramp", help="a real server, from idle to twice what it can serve, compared with fixed settings"
    )
    real.add_argument("--seconds", type=float, default=600.0, help="length of the ramp with the objective")
    real.add_argument("--fixed_seconds", type=float, default=120.0, help="length of the ramp with each fixed setting")
    real.add_argument("--steps", type=int, default=10, help="rates from idle to twice the capacity")
    real.add_argument("--transport", choices=("native", "grpcio"), default="native")
    real.add_argument(
        "--fixed",
        nargs="*",
        default=["16/0/10", "32/0/1", "32/60000/1"],
        help="fixed settings to compare with, as max_batch_size/batch_timeout_micros/max_enqueued_batches",
    )
    recorded = what.add_parser("record", help="arrivals at a real server with callers of several kinds")
    recorded.add_argument("--seconds", type=float, default=30.0, help="how long to record")
    for each in (simulated, real):
        each.add_argument("--out", type=Path, default=DOCS / "benchmarks", help="folder for the report and the charts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
