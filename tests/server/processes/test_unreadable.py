"""Answers of worker processes that the server cannot unpickle."""

import pickle
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import pytest

from headrace_batching.task import Array
from headrace_protos import Code
from headrace_server.backends.base import BackendOptions
from headrace_server.errors import RunLost
from headrace_server.processes import isolated, shared_memory
from headrace_server.processes.isolated import IsolatedBackend, Isolation
from headrace_server.processes.job import Job

from .python_models import write

NAME = "model m version 1"

_CODE = """
import numpy as np

INPUTS = {"x": ("float32", [None])}
OUTPUTS = {"y": ("float32", [None]), "text": ("string", [None])}

def predict(inputs):
    x = inputs["x"]
    return {"y": x + 1, "text": ["text"] * len(x)}
"""


CROSSINGS = {"socket": False, **({"link": True} if find_spec("headrace_native") else {})}


@pytest.fixture(params=CROSSINGS.values(), ids=list(CROSSINGS))
def backend(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[IsolatedBackend]:
    monkeypatch.setattr(isolated, "PATIENCE", 60.0)
    job = Job(write(tmp_path / "1", _CODE), BackendOptions(), 0, linked=request.param)
    backend = IsolatedBackend(job, Isolation(name=NAME))
    yield backend
    backend.close()


def run(backend: IsolatedBackend, output: str) -> Array:
    return backend.run("serving_default", {"x": np.zeros(1, np.float32)}, [output])[output]


def pid(backend: IsolatedBackend) -> int:
    (keeper,) = backend._keepers
    assert keeper._worker is not None
    return keeper._worker.pid


def fail(*_: object) -> None:
    raise UnpicklingError("damaged")


def test_a_process_is_replaced_after_a_message_that_cannot_be_unpickled(
    backend: IsolatedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pid(backend)
    text = f"{NAME}: its worker process sent an unreadable answer, and was ended: UnpicklingError: damaged"
    with monkeypatch.context() as patched:
        patched.setattr(pickle, "loads", fail)
        with pytest.raises(RunLost, match=text) as raised:
            run(backend, "y")
    assert raised.value.code == Code.INTERNAL
    assert run(backend, "y").tolist() == [1]
    assert pid(backend) != before


def test_strings_that_cannot_be_unpickled_fail_only_their_caller(
    backend: IsolatedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = pid(backend)
    with monkeypatch.context() as patched:
        patched.setattr(shared_memory, "_texts", fail)
        for _ in range(3):
            with pytest.raises(UnpicklingError, match="damaged"):
                run(backend, "text")
    assert run(backend, "text").tolist() == [b"text"]
    assert pid(backend) == before
    place = backend._places.take(0)
    assert place is not None
    assert len(place.borrower.give_back()) == 1  # the answers that failed have been returned
    backend._places.put(place)
