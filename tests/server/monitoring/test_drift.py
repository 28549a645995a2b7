"""Drift of a real server's requests, compared with a profile that the toolkit has made."""

import itertools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace_batching.task import Array, Arrays
from headrace_server.models.watched import watched as watched_run
from headrace_server.monitoring.drift import AT_ONCE, LEAST_ROWS, ROW, WAITING_BYTES, Watch
from headrace_toolkit.data import Data
from headrace_toolkit.profile import profile_of
from tests.conftest import ROOT, Run
from tests.support import models
from tests.support.calls import floats
from tests.support.ports import free_port
from tests.support.prometheus import lint, samples
from tests.support.rest_calls import RestCaller

DIGITS = ROOT / "models" / "digits"
ROWS = 180
INDEX = 'headrace_drift_stability_index{model="model",version="1",input="image"}'


def images() -> Array:
    found: Array = np.load(DIGITS / "held_out.npz")["images"].reshape(-1, 64).astype(np.float32)
    return found


def digits(folder: Path) -> Path:
    """Writes the model, with a profile made from half of the images."""
    shutil.copytree(DIGITS / "1", folder)
    (folder / "profile.json").write_text(json.dumps(profile_of(Data("images", "", {"image": images()[::2]}))))
    return folder


class Watched:
    """A server with the digits model that samples one row of every batch."""

    def __init__(self, running: Run) -> None:
        port = free_port()
        self.server = running(digits, rest_api_port=port, drift_ratio=1.0)
        self.rest = RestCaller(port)

    def ask(self, rows: Array) -> None:
        """Sends rows one by one, in batches of one."""
        for row in rows:
            self.server.caller.predict({"image": row[None]})

    def metrics(self) -> dict[str, float]:
        """The page of `/metrics`."""
        return samples(self.rest.get("/metrics").text)

    def page(self) -> Any:
        """The state that the live page gets."""
        return self.rest.get("/page/state").value["model"]["versions"][0]["drift"]


@pytest.fixture
def watched(running: Run) -> Iterator[Watched]:
    watched = Watched(running)
    yield watched
    watched.rest.close()


def test_requests_like_those_that_were_profiled(watched: Watched) -> None:
    watched.ask(images()[1 : 2 * ROWS : 2])
    watched.ask(images()[: 2 * ROWS : 2])
    found = watched.metrics()
    assert 0 <= found[INDEX] < 0.2  # the largest index of 64 pixels, over 360 rows
    assert found['headrace_drift_missing_ratio{model="model",version="1",input="image"}'] == 0
    classes = {series: share for series, share in found.items() if series.startswith("headrace_drift_class_ratio")}
    assert len(classes) == 10
    assert sum(classes.values()) == pytest.approx(1)
    assert found['headrace_drift_rows{model="model",version="1"}'] >= ROWS
    assert lint(watched.rest.get("/metrics").text) == ""


def test_requests_that_have_changed(watched: Watched) -> None:
    moved = 16 - images()  # like photographic negatives
    moved[:ROWS, 0] = np.nan
    moved[:, 1] = 1000
    watched.ask(moved)
    found, page = watched.metrics(), watched.page()
    assert found[INDEX] > 1
    assert page["inputs"]["image"]["index"] == pytest.approx(found[INDEX], rel=0.01)
    assert page["inputs"]["image"]["missing"] == pytest.approx(1 / 128, rel=0.1)
    assert page["inputs"]["image"]["outside"] > 1 / 64
    assert set(page["classes"]) == {"label"}


def test_few_rows_give_no_figures(watched: Watched) -> None:
    watched.ask(images()[: LEAST_ROWS // 2])
    assert INDEX not in watched.metrics()
    assert watched.page() is None


def test_a_model_without_a_profile_is_not_watched(running: Run) -> None:
    server = running(models.linear, drift_ratio=1.0)
    server.caller.predict({"x": floats([1, 2, 3, 4])})
    (servable,) = server._server.serving["model"].values()
    assert servable._schedulers.take is None


def test_an_invalid_profile_is_reported(running: Run, caplog: pytest.LogCaptureFixture) -> None:
    def make(folder: Path) -> Path:
        models.linear(folder)
        (folder / "profile.json").write_text("{}")
        return folder

    server = running(make, drift_ratio=1.0)
    server.caller.predict({"x": floats([1, 2, 3, 4])})
    assert [message for message in caplog.messages if "is not watched for drift" in message]


def test_no_more_rows_wait_than_fit() -> None:
    seconds = itertools.count(step=1000)
    watch = Watch({}, 1.0, clock=lambda: float(next(seconds)))
    row = np.zeros((1, WAITING_BYTES // 10), np.uint8)
    for _ in range(50):
        watch.take({"x": row}, {})
    assert len(watch._taken) == 10


@pytest.mark.parametrize("rows", [1, 10])
def test_a_share_of_the_rows_is_sampled(rows: int) -> None:
    seconds = itertools.count(step=1000)
    watch = Watch({"x": [None]}, 0.02, random.Random(1).random, lambda: float(next(seconds)))
    run = watched_run(lambda _: {}, watch.take)
    for _ in range(20_000 // rows):
        run({"x": np.zeros((rows, 1), np.float32)})
    assert len(watch._taken) == pytest.approx(400, rel=0.25)


def test_rows_are_sampled_less_often_when_the_limit_is_reached() -> None:
    now, calls = [0.0], 0
    watch = Watch({"x": [None]}, 1.0, clock=lambda: now[0])

    def take(inputs: Arrays, outputs: Arrays) -> int:
        nonlocal calls
        calls += 1
        return watch.take(inputs, outputs)

    run = watched_run(lambda _: {}, take)
    for _ in range(10_000):
        run({"x": np.zeros((1, ROW), np.float32)})
    assert len(watch._taken) == AT_ONCE // (2 * ROW)
    assert calls < len(watch._taken) + 20
    now[0] = 100.0
    for _ in range(2_000):
        run({"x": np.zeros((1, ROW), np.float32)})
    assert len(watch._taken) == pytest.approx(2 * AT_ONCE // (2 * ROW), rel=0.5)


def test_the_sampled_values_take_at_most_a_millisecond() -> None:
    now = [0.0]
    watch = Watch({"x": [None]}, 1.0, clock=lambda: now[0])
    batch = {"x": np.zeros((1, AT_ONCE // 10 - ROW), np.float32)}

    def taken() -> int:
        before = len(watch._taken)
        for _ in range(100):
            watch.take(batch, {})
        return len(watch._taken) - before

    assert taken() == 10
    assert taken() == 0
    now[0] = 10.0
    assert taken() == 5


def test_old_rows_count_less_and_less() -> None:
    seconds = itertools.count()
    watch = Watch({"x": [None]}, 1.0, clock=lambda: float(next(seconds)))
    for _ in range(12):
        for _ in range(1000):
            watch.take({"x": floats([1.0])}, {"label": np.array([1])})
        summary = watch.summary()
    assert summary is not None
    assert summary["rows"] <= 5000
    assert summary["classes"] == {"label": {"1": 1.0}}
