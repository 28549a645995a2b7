"""A version's card makes the trial unnecessary if it proves, for exactly these bytes, that the rows are independent."""

import hashlib
import json
import logging
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from headrace_batching import BatchThreads, Options
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.independence import Finding, Verdict
from headrace_server.metrics.catalogue import Metrics
from headrace_server.models.loader import Loader
from tests.support.graphs import MIXING

Card = dict[str, Any]

MIXES = next(iter(next(iter(MIXING.values())).values()))
"""A model whose rows mix: if its card is trusted, it is batched anyway, which shows that no trial ran."""


def write(folder: Path) -> Card:
    """A version of the model, and a card with its digest that says that its rows are independent."""
    model = MIXES.write(folder)
    file = {"bytes": model.stat().st_size, "sha256": hashlib.sha256(model.read_bytes()).hexdigest()}
    rows = {"finding": "independent", "reason": "", "runs": 9}
    return {"files": {"model.onnx": file}, "rows": rows, "versions": {"headrace": version("headrace")}}


def verdict_of(folder: Path) -> Verdict:
    loader = Loader(BackendOptions(), BatchThreads(1), Options(), Metrics(), per_model_batching=False)
    servable = loader.load("m", 1, folder)
    try:
        return servable.verdicts["serving_default"]
    finally:
        servable.close()


def test_a_proved_model_is_not_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "1"
    (folder / "assets.extra").mkdir(parents=True)
    (folder / "profile.json").write_text("{}")
    (folder / "card.json").write_text(json.dumps(write(folder)))
    caplog.set_level(logging.INFO)
    assert verdict_of(folder) == Verdict(Finding.INDEPENDENT, "card.json records a trial of exactly these files")
    line = "requests share batches: no row depends on the others (card.json records a trial of exactly these files)"
    assert any(line in message for message in caplog.messages)


def other_bytes(card: Card, folder: Path) -> None:
    del card
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\x72\x00")  # an empty field that every reader ignores


def other_digest(card: Card, folder: Path) -> None:
    del folder
    card["files"]["model.onnx"]["sha256"] = "0" * 64


def another_file(card: Card, folder: Path) -> None:
    del card
    (folder / "model.onnx.data").write_bytes(b"")


def a_file_that_is_not_there(card: Card, folder: Path) -> None:
    del folder
    card["files"]["model.onnx.data"] = {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}


def another_headrace(card: Card, folder: Path) -> None:
    del folder
    card["versions"]["headrace"] = "0.0.1"


def not_independent(card: Card, folder: Path) -> None:
    del folder
    card["rows"]["finding"] = "enabled"


def no_finding(card: Card, folder: Path) -> None:
    del folder
    card["rows"] = "independent"


@pytest.mark.parametrize(
    "spoil",
    [other_bytes, other_digest, another_file, a_file_that_is_not_there, another_headrace, not_independent, no_finding],
)
def test_a_card_without_a_proof(tmp_path: Path, spoil: Callable[[Card, Path], None]) -> None:
    folder = tmp_path / "1"
    card = write(folder)
    spoil(card, folder)
    (folder / "card.json").write_text(json.dumps(card))
    assert not verdict_of(folder).batched


@pytest.mark.parametrize("text", ["", "[]", "{", '"card"', "\ufffd", '{"files": {}}'])
def test_an_invalid_card(tmp_path: Path, text: str) -> None:
    write(tmp_path / "1")
    (tmp_path / "1" / "card.json").write_text(text)
    assert not verdict_of(tmp_path / "1").batched
