"""A server survives whatever is sent to a model: odd shapes and values, to models of nearly every operator.

`make fuzz-models` sends them for ten minutes; otherwise a sample of models and requests is used.
"""

import json
import os
import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest

from headrace_batching import BatchThreads
from headrace_batching.task import Arrays
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.odd_inputs import odd_arrays, odd_requests
from headrace_server.backends.signature import Signature
from headrace_server.config.isolation import IsolationOptions
from headrace_server.errors import ServingError
from headrace_server.metrics.catalogue import Metrics
from headrace_server.models.loader import Loader
from tests.support import models
from tests.support.calls import Caller, predict_request, refusal_of
from tests.support.fatal_models import FATAL
from tests.support.odd_models import OddModel, Pool, every_model, folder_name
from tests.support.onnx_cases import sendable
from tests.support.ports import free_port
from tests.support.rest_calls import RestCaller
from tests.support.running import COMMAND, ServerProcess, eventually

SECONDS = float(os.environ.get("HEADRACE_FUZZ_SECONDS", "0"))
"""The seconds of calls on each transport; 0 means only a sample of requests."""

SEED = int(os.environ.get("HEADRACE_FUZZ_SEED", "7"))

SAMPLE_SECONDS = 4.0
MODELS = 60 if SECONDS else 24
"""The number of models per server."""

EACH = 40 if SECONDS else 10
"""The number of requests per model."""

MEMORY = 6 << 30
"""The server's memory limit in bytes: some requests ask for answers of any size."""

MOST_IN_JSON = 1_000_000
"""The number of elements up to which a request is sent as JSON: Python's objects for more need gigabytes."""

MOST_CHANGED_TWICE = 1 << 20
"""The size in bytes up to which an array is changed a second time: all its variants are in memory at once."""

CALL_SECONDS = 5.0
"""The seconds after which a call is cancelled; a run is abandoned after one second."""

FLAGS = ("--run_timeout=1", "--request_memory_mb=256", "--max_num_load_retries=0")


@pytest.fixture(scope="module")
def pool() -> Pool:
    every = every_model(nodes=bool(SECONDS))
    # Models with inputs of any rank have a process each, which takes a second to start.
    quick = [case for case in every.cases if not case.name.endswith("_any_rank")]
    return every if SECONDS else every._replace(cases=quick)


class Fuzzed:
    """A server with models, and its clients."""

    def __init__(self, base_path: Path, odd: Sequence[OddModel], flags: Sequence[str]) -> None:
        self._models = _that_load(odd, base_path)
        models.linear(base_path / "steady" / "1")
        entry = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" }}'
        entries = "\n".join(entry.format(name, base_path) for name in ("steady", *self._models))
        config = base_path / "models.config"
        config.write_text(f"model_config_list {{\n{entries}\n}}\n")
        self._rest_port = free_port()
        arguments = (*FLAGS, *flags, f"--model_config_file={config}", f"--rest_api_port={self._rest_port}")
        self.server = ServerProcess(base_path, *arguments, headrace=("prlimit", f"--data={MEMORY}", COMMAND))
        self.caller: Caller = self.server.started()
        self.sent = 0

    def play(self, chance: random.Random, until: float) -> str:
        """Sends odd requests; returns the one after which the server had died, or an empty string."""
        for name, (signature, usual) in self._models.items():
            requests = list(odd_requests(signature, usual))
            chosen = chance.sample(requests, min(EACH, len(requests)))
            for what, request in chain_two(chosen, chance):
                if time.monotonic() > until:
                    return ""
                self._send(name, request, over_rest=chance.random() < 0.3)
                if (status := self.server.process.poll()) is not None:
                    shapes = {alias: array.shape for alias, array in request.items()}
                    return f"{name}: {what}, {shapes}: status {status}, {self.server.log[-5:]}"
        return ""

    def end_processes(self) -> None:
        """Sends requests that crash processes: their callers get an error, and calls are answered again.

        On a busy machine, a process may take longer to start than calls wait for it.
        """
        for name, fatal in FATAL.items():
            refusal = self.caller.refusal(predict_request(fatal.request, name=folder_name(name)))
            assert refusal.code is grpc.StatusCode.INTERNAL
            assert re.search(r"its worker process was ended by SIG\w+ during the run", refusal.text)
            assert eventually(partial(self._is_answered, folder_name(name), fatal.fine))

    def _is_answered(self, name: str, request: Arrays) -> bool:
        """Tells whether calls are answered: false while no worker process is running."""
        try:
            return bool(self.caller.predict(request, name=name)["y"].size)
        except grpc.RpcError as error:
            if refusal_of(error).code is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False

    def _send(self, name: str, request: Arrays, *, over_rest: bool) -> None:
        self.sent += 1
        large = sum(array.size for array in request.values()) > MOST_IN_JSON
        if not over_rest or large or any(array.dtype.hasobject for array in request.values()):
            with suppress(grpc.RpcError, ValueError, TypeError):
                self.caller.call(predict_request(sendable(request), name=name), timeout=CALL_SECONDS)
            return
        body = json.dumps({"inputs": {alias: _in_json(array) for alias, array in request.items()}})
        with suppress(OSError, ValueError), closing(RestCaller(self._rest_port)) as rest:
            rest.send("POST", f"/v1/models/{name}:predict", body)

    def close(self) -> None:
        self.caller.close()
        self.server.close()


def chain_two(requests: Sequence[tuple[str, Arrays]], chance: random.Random) -> Iterator[tuple[str, Arrays]]:
    """The requests, and each of them with a second odd change."""
    for what, request in requests:
        yield what, request
        alias = chance.choice(list(request))
        odder = list(odd_arrays(request[alias])) if request[alias].nbytes <= MOST_CHANGED_TWICE else []
        if odder:
            more, array = chance.choice(odder)
            yield f"{what}; {alias}, {more}", {**request, alias: array}


def _that_load(odd: Sequence[OddModel], base_path: Path) -> dict[str, tuple[Signature, Arrays | None]]:
    """The models that a server can load, by name, with the signatures that callers see."""
    never = IsolationOptions(workers=0)
    loader = Loader(BackendOptions(), BatchThreads(1), None, Metrics(), isolation=never, per_model_batching=False)
    found = {}
    for model in odd:
        model.write(base_path)
        with suppress(ServingError), closing(loader.load(model.name, 1, base_path / model.name / "1")) as servable:
            signature = servable.signatures["serving_default"]
            found[model.name] = (signature, model.usual if _is_request(model.usual, signature) else None)
    return found


def _is_request(usual: Arrays | None, signature: Signature) -> bool:
    """Whether a request has an array for each input; some of ONNX's cases have sequences."""
    every = usual is not None and set(usual) == set(signature.inputs)
    return every and all(isinstance(array, np.ndarray) for array in (usual or {}).values())


def _in_json(array: np.ndarray) -> object:
    return array.astype(np.float64).tolist() if array.dtype.kind in "fV" else array.tolist()


def test_the_server_survives(transport: str, pool: Pool, tmp_path: Path) -> None:
    chance, end = random.Random(f"{SEED} {transport}"), time.monotonic() + (SECONDS or SAMPLE_SECONDS)
    deaths, sent, round_ = [], 0, 0
    while round_ == 0 or time.monotonic() < end:
        round_ += 1
        fuzzed = Fuzzed(tmp_path / str(round_), pool.some(MODELS, chance), [f"--transport={transport}"])
        with closing(fuzzed):
            until = end if SECONDS else time.monotonic() + SAMPLE_SECONDS
            fuzzed.end_processes()
            if death := fuzzed.play(chance, until):
                deaths.append(death)
            else:
                answer = fuzzed.caller.predict({"x": np.ones((1, 4), np.float32)}, name="steady")["y"]
                assert answer.tolist() == [[4]]
            sent += fuzzed.sent
    print(f"{transport}: {sent} requests, {len(deaths)} deaths", *deaths, sep="\n")
    assert deaths == []
