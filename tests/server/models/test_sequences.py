"""Stateful models: sequences of requests whose state the server keeps."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import RpcError, StatusCode

from headrace_batching.task import Arrays
from headrace_protos import DataType
from headrace_protos.inference import grpc_service_pb2 as messages
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.config.model_toml import SequenceOptions, StateOptions
from headrace_server.config.security import AuthOptions
from headrace_server.errors import ServingError
from headrace_server.models.call import SequenceStep
from headrace_server.models.sequences import Sequences
from headrace_server.security.keys import create_key
from tests.conftest import Make, Rest, Run
from tests.server.services.open_inference.calls import InferenceCaller, array, infer_request, tensor
from tests.support import models
from tests.support.calls import MODEL, predict_request

STATE = '[state.total]\ninput = "before"\n'


def stateful(text: str = STATE, *, batched: bool = True) -> Make:
    def make(folder: Path) -> Path:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.parent.joinpath("model.toml").write_text(text)
        return models.accumulating(folder, batched=batched)

    return make


@pytest.fixture(scope="module", params=[True, False], ids=["batched", "alone"])
def caller(request: pytest.FixtureRequest, running: Run) -> Any:
    caller = InferenceCaller(running(stateful(batched=request.param)).port)
    yield caller
    caller.close()


def step(value: float, identity: int | str, **flags: bool) -> messages.ModelInferRequest:
    parameters = {"sequence_id": identity, **{f"sequence_{name}": flag for name, flag in flags.items()}}
    raw = np.array([[value]], np.float32).tobytes()
    return infer_request([tensor(shape=(1, 1))], [raw], parameters=parameters)


def test_state_goes_from_step_to_step(caller: InferenceCaller) -> None:
    values = [array(caller.call(step(value, 7, start=value == 1))).item() for value in (1, 2, 3)]
    assert values == [2, 6, 12]
    assert array(caller.call(step(1, 7, start=True))).item() == 2  # started again


def test_sequences_do_not_mix(caller: InferenceCaller) -> None:
    def run(identity: int) -> list[float]:
        steps = [step(identity, identity, start=number == 0, end=number == 19) for number in range(20)]
        return [array(caller.call(each)).item() for each in steps]

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(run, range(1, 51)))
    assert answers == [[2.0 * identity * (number + 1) for number in range(20)] for identity in range(1, 51)]


def test_a_stream_of_one_sequence_keeps_its_order(caller: InferenceCaller) -> None:
    steps = [step(1, "stream", start=number == 0) for number in range(100)]
    answers = [array(each.infer_response).item() for each in caller.stream(steps)]
    assert answers == [2.0 * (number + 1) for number in range(100)]


def test_sequences_that_have_ended_or_never_began(caller: InferenceCaller) -> None:
    text = (
        f"inference request for sequence 9 to model '{MODEL}' must specify the START flag on the first request of the "
        "sequence"
    )
    assert caller.refusal(step(1, 9)) == (StatusCode.INVALID_ARGUMENT, text)
    caller.call(step(1, 9, start=True, end=True))
    assert caller.refusal(step(1, 9)) == (StatusCode.INVALID_ARGUMENT, text)


def test_a_request_without_a_sequence(caller: InferenceCaller) -> None:
    request = infer_request([tensor(shape=(1, 1))], [b"\0" * 4])
    code, text = caller.refusal(request)
    assert code == StatusCode.INVALID_ARGUMENT
    assert "must specify a non-zero or non-empty correlation ID" in text


def test_callers_do_not_see_the_state(caller: InferenceCaller) -> None:
    metadata = caller.call(messages.ModelMetadataRequest(name=MODEL))
    assert [each.name for each in metadata.inputs] == ["x"]
    assert [each.name for each in metadata.outputs] == ["y"]
    config = caller.call(messages.ModelConfigRequest(name=MODEL)).config
    (state,) = config.sequence_batching.state
    assert (state.input_name, state.output_name) == ("before", "total")
    assert config.sequence_batching.max_sequence_idle_microseconds == 60_000_000


def test_nobody_continues_the_sequence_of_another_caller(running: Run, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    headers = [(("authorization", f"Bearer {create_key(keys, name)}"),) for name in ("shop", "bank")]
    with closing(InferenceCaller(running(stateful(), auth=AuthOptions(keys_file=str(keys))).port)) as caller:
        shop, bank = (partial(caller.call, metadata=header) for header in headers)
        assert array(shop(step(1, 7, start=True))).item() == 2
        with pytest.raises(RpcError, match="must specify the START flag"):
            bank(step(1, 7))
        assert array(bank(step(10, 7, start=True))).item() == 20
        assert array(shop(step(2, 7))).item() == 6
        bank(step(1, 7, end=True))
        assert array(shop(step(3, 7, end=True))).item() == 12


def test_rows_are_parallel_sequences(running: Run) -> None:
    caller = InferenceCaller(running(stateful()).port)

    def rows(*values: float, **flags: bool) -> messages.ModelInferRequest:
        request = step(0, 5, **flags)
        request.inputs[0].shape[:] = [len(values), 1]
        request.raw_input_contents[0] = np.array(values, np.float32).tobytes()
        return request

    caller.call(rows(1, 10, start=True))
    assert array(caller.call(rows(1, 10))).tolist() == [[4], [40]]
    text = f"a sequence of model '{MODEL}' had 2 rows and now has 1"
    assert caller.refusal(rows(1)) == (StatusCode.INVALID_ARGUMENT, text)
    caller.close()


def test_rest_and_predict(resting: Rest) -> None:
    rest = resting(stateful('[state.total]\ninput = "before"\ninitial = 5.0\n'))
    path = f"/v2/models/{MODEL}/infer"

    def body(**parameters: Any) -> dict[str, Any]:
        inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}]
        return {"parameters": {"sequence_id": "a", **parameters}, "inputs": inputs}

    answers = [rest.send("POST", path, body(sequence_start=True)), rest.send("POST", path, body())]
    assert [answer.value["outputs"][0]["data"] for answer in answers] == [[12.0], [14.0]]
    assert rest.predict({"instances": [[1]]}) == {"predictions": [[12.0]]}  # a sequence with one step


def test_predict_over_grpc(running: Run) -> None:
    server = running(stateful())
    assert server.caller.call(predict_request({"x": np.ones((2, 1), np.float32)})).outputs["y"].float_val == [2, 2]


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ('[state.nope]\ninput = "before"\n', "state.nope: the model has no output nope; it has y, total"),
        ('[state.total]\ninput = "nope"\n', "state.total.input: the model has no input nope; it has x, before"),
        ("[state.total]\n", "state.total.input must be given"),
        (f"{STATE}shape = [2]\n", "state.total.shape: the input before does not accept [2]"),
        (
            f"{STATE}[sequences]\nmax_sequences = 0\n",
            "sequences.max_sequences must be a whole number of at least 1",
        ),
    ],
)
def test_an_invalid_state_does_not_load(running: Run, text: str, refusal: str) -> None:
    with pytest.raises(ServingError) as refused:
        running(stateful(text))
    assert refusal in refused.value.message


class TestKeeping:
    """Which sequences are kept, on a fake clock."""

    SIGNATURE = Signature(
        {name: TensorSpec(name, DataType.DT_FLOAT, (None, 1)) for name in ("x", "before")},
        {name: TensorSpec(name, DataType.DT_FLOAT, (None, 1)) for name in ("y", "total")},
        batched=True,
    )

    def sequences(self, clock: Callable[[], float], **options: Any) -> Sequences:
        states = {"total": StateOptions(input="before")}
        return Sequences(MODEL, self.SIGNATURE, states, SequenceOptions(**options), clock)

    async def step(self, sequences: Sequences, identity: int, **flags: bool) -> float:
        async def run(inputs: Arrays, _outputs: tuple[str, ...]) -> Arrays:
            await asyncio.sleep(0)
            total = inputs["before"] + inputs["x"]
            return {"y": total, "total": total}

        inputs = {"x": np.ones((1, 1), np.float32)}
        result = await sequences.run(SequenceStep(identity, **flags), inputs, ("y",), run)
        value: float = result["y"].item()
        return value

    def test_idle_sequences_are_dropped(self) -> None:
        now = [0.0]
        sequences = self.sequences(lambda: now[0], idle_seconds=10)

        async def go() -> None:
            await self.step(sequences, 1, start=True)
            await self.step(sequences, 2, start=True)
            now[0] = 9
            assert await self.step(sequences, 2) == 2
            now[0] = 15
            assert await self.step(sequences, 2) == 3
            with pytest.raises(ServingError, match="must specify the START flag"):
                await self.step(sequences, 1)

        asyncio.run(go())

    def test_the_number_of_sequences_is_bounded(self) -> None:
        now = [0.0]
        sequences = self.sequences(lambda: now[0], idle_seconds=10, max_sequences=2)

        async def go() -> None:
            await self.step(sequences, 1, start=True)
            await self.step(sequences, 2, start=True)
            with pytest.raises(ServingError, match="has 2 sequences, which is the maximum"):
                await self.step(sequences, 3, start=True)
            assert await self.step(sequences, 2, start=True) == 1  # the same sequence, started again
            now[0] = 20
            assert await self.step(sequences, 3, start=True) == 1

        asyncio.run(go())

    def test_a_failed_step_leaves_the_state_unchanged(self) -> None:
        sequences = self.sequences(lambda: 0.0)

        async def fail(_inputs: Arrays, _outputs: tuple[str, ...]) -> Arrays:
            raise RuntimeError

        async def go() -> None:
            assert await self.step(sequences, 1, start=True) == 1
            with pytest.raises(RuntimeError):
                await sequences.run(SequenceStep(1), {"x": np.ones((1, 1), np.float32)}, ("y",), fail)
            assert await self.step(sequences, 1) == 2

        asyncio.run(go())

    def test_a_step_that_waits_while_the_sequence_ends_is_refused(self) -> None:
        sequences = self.sequences(lambda: 0.0)

        async def go() -> None:
            assert await self.step(sequences, 1, start=True) == 1
            last = asyncio.create_task(self.step(sequences, 1, end=True))
            late = asyncio.create_task(self.step(sequences, 1))
            again = asyncio.create_task(self.step(sequences, 1, start=True))
            assert (await last, await again) == (2, 1)
            with pytest.raises(ServingError, match="must specify the START flag"):
                await late

        asyncio.run(go())


WRITES = """
INPUTS = {{"x": ("float32", {shape}), "before": ("float32", {shape})}}
OUTPUTS = {{"y": ("float32", {shape}), "total": ("float32", {shape})}}

def predict(inputs):
    inputs["before"] += inputs["x"]
    if inputs["x"].max() == 7:
        raise ValueError("seven")
    return {{"y": 2 * inputs["before"], "total": inputs["before"]}}
"""


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("shape", [[None, 1], [1, 1]], ids=["batched", "alone"])
def test_a_model_may_write_into_its_state(
    running: Run, caplog: pytest.LogCaptureFixture, shape: list[int | None], workers: int
) -> None:
    def make(folder: Path) -> Path:
        folder.mkdir(parents=True)
        folder.joinpath("model.py").write_text(WRITES.format(shape=shape))
        folder.parent.joinpath("model.toml").write_text(f"{STATE}[isolation]\nworkers = {workers}\n")
        return folder

    with caplog.at_level("INFO"):
        server = running(make)
    assert "cannot be warmed up" not in caplog.text
    with closing(InferenceCaller(server.port)) as caller:
        for identity in (1, 2):
            assert array(caller.call(step(1, identity, start=True))).item() == 2
            assert "seven" in caller.refusal(step(7, identity))[1]
            assert array(caller.call(step(1, identity))).item() == 4
    for _ in range(2):
        assert server.caller.predict({"x": np.ones((1, 1), np.float32)})["y"].item() == 2
