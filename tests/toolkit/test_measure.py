"""Timing: variants take turns on a clock that the test controls."""

import gzip
from pathlib import Path

from headrace_toolkit.measure import seconds_of_runs, size_of


class Clock:
    """A clock that moves only when a run moves it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def runner(self, name: str, seconds: float) -> object:
        def run() -> None:
            self.order.append(name)
            self.now += seconds

        return run


def test_variants_take_turns() -> None:
    clock = Clock()
    runs = {name: clock.runner(name, seconds) for name, seconds in (("a", 0.25), ("b", 0.5))}
    found = seconds_of_runs(runs, rounds=3, seconds=6.0, clock=clock)  # type: ignore[arg-type]
    assert found == {"a": 0.25, "b": 0.5}
    warm = ["a", "a", "b", "b"]
    assert clock.order == [*warm, *(["a"] * 4 + ["b"] * 2) * 3]


def test_a_disturbed_round_does_not_count() -> None:
    clock, calls = Clock(), []

    def run() -> None:
        calls.append(1)
        clock.now += 100.0 if len(calls) == 4 else 1.0

    assert seconds_of_runs({"a": run}, rounds=5, seconds=5.0, clock=clock) == {"a": 1.0}


def test_sizes(made: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes((made / "mlp.onnx").read_bytes())
    (tmp_path / "ready.txt").write_text("not of the model")
    size = size_of(tmp_path / "model.onnx")
    content = (made / "mlp.onnx").read_bytes()
    assert size.bytes == len(content)
    assert size.gzip_bytes == len(gzip.compress(content, 6, mtime=0))
    assert size.load_ms > 0
