"""The values that the flags of `headrace bench` accept."""

from pathlib import Path
from typing import Any

import pytest

from headrace_client.bench import values
from headrace_client.bench.errors import BenchError
from headrace_client.bench.settings import Stage, read


@pytest.mark.parametrize(
    ("text", "seconds"), [("20ms", 0.02), ("1.5s", 1.5), ("300us", 0.0003), ("2m", 120.0), ("3", 3.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert values.duration("limit", text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "-1s", "ms", "1h", "nan", "inf", "1e400s"])
def test_invalid_durations(text: str) -> None:
    with pytest.raises(BenchError, match="--limit must be a duration above 0"):
        values.duration("limit", text)


@pytest.mark.parametrize("text", ["0", "-5", "nan", "inf", "1e9", "100,,200", "fast", ""])
def test_invalid_rates(text: str) -> None:
    with pytest.raises(BenchError, match="--rate must be numbers above 0 and up to 10,000,000"):
        values.rates("rate", text)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "1,x", "", "10001", "\u0663"])
def test_invalid_numbers_of_callers(text: str) -> None:
    with pytest.raises(BenchError, match="--concurrency must be whole numbers from 1 to 10,000"):
        read({"model": ["m"], "concurrency": text})


@pytest.mark.parametrize(
    ("given", "stages"),
    [
        ({}, [("closed", 1), ("closed", 4), ("closed", 16), ("closed", 64)]),
        ({"rate": "100,2000"}, [("poisson", 100), ("poisson", 2000)]),
        ({"rate": "5", "arrivals": "constant", "concurrency": "2"}, [("closed", 2), ("constant", 5)]),
        ({"arrivals": "recorded", "log": "f", "speed": "1,4"}, [("recorded", 1), ("recorded", 4)]),
    ],
    ids=str,
)
def test_stages(given: dict[str, Any], stages: list[tuple[str, float]]) -> None:
    assert list(read({"model": ["m"], **given}).stages) == [Stage(*stage) for stage in stages]


def test_models_files_and_servers() -> None:
    settings = read(
        {"model": ["a=3", "b"], "inputs": ["a=x.npz", "y.npz"], "compare": ["h:1", "h:2"], "metadata": ["k=v=w"]}
    )
    assert settings.models == {"a": 3.0, "b": 1.0}
    assert settings.inputs == {"a": Path("x.npz"), "": Path("y.npz")}
    assert settings.servers == ("h:1", "h:2")
    assert settings.metadata == (("k", "v=w"),)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "--model must name the model to call"),
        ({"model": ["m"], "arrivals": "recorded"}, "--arrivals=recorded needs the times in a --log"),
        ({"model": ["m"], "arrivals": "bursts"}, "--arrivals must be one of poisson, constant, recorded; was bursts"),
        (
            {"model": ["m"], "api": "rest"},
            "--api must be one of auto, predict, infer, rest-predict, rest-infer; was rest",
        ),
        ({"model": ["m=0"]}, "--model must be NAME or NAME=WEIGHT, where WEIGHT is a number above 0; was 'm=0'"),
        ({"model": ["=1"]}, "--model must be NAME or NAME=WEIGHT"),
        (
            {"model": ["m"], "metadata": ["k"]},
            "--metadata must be NAME=VALUE, in characters that a header may have; was 'k'",
        ),
        ({"model": ["m"], "threads": "0"}, "--threads must be a whole number from 1 to 64; was 0"),
    ],
    ids=str,
)
def test_combinations_that_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BenchError, match=said):
        read(given)
