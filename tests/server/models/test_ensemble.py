"""Ensembles: models that consist of other models, called through both APIs."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from grpc import StatusCode

from headrace_batching import LoopDelivery, Options
from headrace_batching.task import Arrays
from headrace_protos import DataType
from headrace_protos.inference import grpc_service_pb2 as messages
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.config.isolation import IsolationOptions
from headrace_server.config.model_toml import StepOptions
from headrace_server.errors import ServingError, invalid, not_found
from headrace_server.models.call import Call
from headrace_server.models.ensemble import Members, Unready, make_ensemble
from headrace_server.models.servable import Servable
from tests.conftest import Run
from tests.server.services.open_inference.calls import InferenceCaller, array, infer_request, packed, tensor
from tests.support import models
from tests.support.calls import ANSWER_WITHIN, predict_request
from tests.support.running import RunningServer, eventually

WORDS = """
import numpy as np

INPUTS = {"text": ("string", [None])}
OUTPUTS = {"features": ("float32", [None, 4]), "length": ("int64", [None])}


def predict(inputs):
    texts = inputs["text"]
    if any(text == b"fail" for text in texts):
        raise ValueError("a word that fails")
    features = np.array([[len(text), text.count(b"a"), 0, 0] for text in texts], np.float32)
    return {"features": features, "length": np.array([len(text) for text in texts])}
"""

STEPS = """
[[steps]]
model = "sum"
inputs = { x = "features" }
outputs = { y = "score" }

[[steps]]
model = "words"
inputs = { text = "text" }
outputs = { features = "features", length = "length" }
"""


def folder(root: Path, *, steps: str = STEPS, **more: str) -> Path:
    """A configuration file with models `words` and `sum`, an ensemble `both` of these two, and further ensembles."""
    python = root / "words" / "1"
    python.mkdir(parents=True)
    python.joinpath("model.py").write_text(WORDS)
    models.linear(root / "sum" / "1")
    for name, text in {"both": steps, **more}.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "model.toml").write_text(text)
    entries = [
        f'config {{ name: "{name}" base_path: "{root / name}" model_platform: "tensorflow" }}'
        for name in ("both", *more, "words", "sum")
    ]
    file = root / "models.config"
    file.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    return file


@pytest.fixture(scope="module")
def server(running: Run, tmp_path_factory: pytest.TempPathFactory) -> RunningServer:
    root = tmp_path_factory.mktemp("ensemble")
    nested = """
[[steps]]
model = "both"
inputs = { text = "word" }
outputs = { score = "score", length = "n" }
"""
    return running(model_config_file=str(folder(root, nested=nested)), open_inference_admin="write")


@pytest.fixture(scope="module")
def caller(server: RunningServer) -> Any:
    caller = InferenceCaller(server.port)
    yield caller
    caller.close()


def asking(*words: bytes, model: str = "both", name: str = "text") -> messages.ModelInferRequest:
    return infer_request([tensor(name, "BYTES", (len(words),))], [packed(*words)], model_name=model)


def test_both_apis(server: RunningServer, caller: InferenceCaller) -> None:
    response = caller.call(asking(b"banana", b"kiwi"))
    outputs = {output.name: array(response, at).tolist() for at, output in enumerate(response.outputs)}
    assert outputs == {"score": [[9.0], [4.0]], "length": [6, 4]}
    request = predict_request({"text": np.array([b"banana", b"kiwi"])}, name="both")
    answer = server.caller.call(request)
    assert answer.outputs["length"].int64_val == [6, 4]
    assert answer.outputs["score"].float_val == [9.0, 4.0]


def test_ensembles_of_ensembles(caller: InferenceCaller) -> None:
    response = caller.call(asking(b"banana", model="nested", name="word"))
    assert {output.name for output in response.outputs} == {"score", "n"}


def test_metadata_of_an_ensemble(caller: InferenceCaller) -> None:
    metadata = caller.call(messages.ModelMetadataRequest(name="both"))
    assert metadata.platform == "ensemble"
    assert [(each.name, each.datatype, list(each.shape)) for each in metadata.inputs] == [("text", "BYTES", [-1])]
    config = caller.call(messages.ModelConfigRequest(name="both")).config
    steps = config.ensemble_scheduling.step
    assert [(step.model_name, step.model_version) for step in steps] == [("sum", -1), ("words", -1)]
    assert dict(steps[0].input_map) == {"x": "features"}
    assert config.max_batch_size == 1000


def test_steps_without_a_requested_output_are_not_run(caller: InferenceCaller) -> None:
    def runs() -> int:
        (stats,) = caller.call(messages.ModelStatisticsRequest(name="sum")).model_stats
        return int(stats.execution_count)

    caller.call(asking(b"warm"))
    before = eventually(runs)
    request = asking(b"banana")
    request.outputs.add(name="length")
    for _ in range(5):
        assert [output.name for output in caller.call(request).outputs] == ["length"]
    assert runs() == before


def test_a_step_that_fails_is_named(server: RunningServer, caller: InferenceCaller) -> None:
    code, text = caller.refusal(asking(b"fail"))
    assert code == StatusCode.INTERNAL
    assert text.startswith("step model words: ValueError: a word that fails")
    (stats,) = caller.call(messages.ModelStatisticsRequest(name="both")).model_stats
    assert stats.inference_stats.fail.count == 1
    assert server.caller.call(predict_request({"text": np.array([b"a"])}, name="both")).outputs


def test_each_step_batches_with_all_its_calls(caller: InferenceCaller) -> None:
    def stats() -> Any:
        return caller.call(messages.ModelStatisticsRequest(name="words")).model_stats[0]

    with ThreadPoolExecutor(64) as pool:
        words = [b"a" * number for number in range(1, 257)]
        answers = list(pool.map(lambda word: caller.call(asking(word)), words))
    lengths = [array(answer, [o.name for o in answer.outputs].index("length")).item() for answer in answers]
    assert lengths == [len(word) for word in words]
    done = stats()
    assert done.execution_count < done.inference_count


def test_a_member_that_is_unloaded_and_loaded_again(caller: InferenceCaller) -> None:
    caller.call(messages.RepositoryModelUnloadRequest(model_name="sum"))
    code, text = caller.refusal(asking(b"banana"))
    assert (code, text.partition(":")[0]) == (StatusCode.UNAVAILABLE, "step model sum")
    caller.call(messages.RepositoryModelLoadRequest(model_name="sum"))
    assert caller.call(asking(b"banana")).outputs


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("sum", "nope"), "steps: no model nope is configured"),
        (("sum", "both"), "steps must not form a cycle: both -> both"),
        (("y =", "z ="), "steps: model sum has no output z; it has y"),
        (("x =", "z ="), "steps: model sum needs its input x"),
        (
            ('x = "features"', 'x = "length"'),
            "steps: length cannot pass from words to sum: it has the type int64, but sum needs float",
        ),
        (
            (
                'model = "words"',
                'model = "sum"\ninputs = { x = "score" }\noutputs = { y = "twice" }\n\n[[steps]]\nmodel = "words"',
            ),
            "steps: score cannot pass from sum to sum: it has the shape [?, 1], but sum needs [?, 4]",
        ),
        (('y = "score"', 'y = "length"'), "steps: length is an output of both sum and words"),
        (('model = "sum"\n', 'model = "sum"\nsignature = "other"\n'), "steps: model sum has no signature other"),
        (("[[steps]]", "[[step]]"), "step: unknown key; did you mean steps?"),
        (('model = "sum"\n', ""), "steps[1].model must be given"),
        (("inputs = {", "input = {"), "steps[1].input: unknown key; did you mean inputs?"),
        (('text = "text"', "text = 5"), "steps[2].inputs must be a table of names; was {'text': 5}"),
    ],
)
def test_an_invalid_ensemble_does_not_load(running: Run, tmp_path: Path, change: tuple[str, str], text: str) -> None:
    file = folder(tmp_path, steps=STEPS.replace(*change))
    with pytest.raises(ServingError) as refused:
        running(model_config_file=str(file), isolation=IsolationOptions(python_workers=0))
    assert f"{tmp_path}/both/model.toml: {text}" in refused.value.message


def test_a_member_that_becomes_ready_during_the_lookup_is_found(tmp_path: Path) -> None:
    awaited = {"sum"}

    def find(name: str, version: int | None) -> Servable:
        del version
        awaited.discard(name)  # ready now, but too late for this call
        raise not_found(f"Servable not found for request: Latest({name})")

    async def lease(name: str, version: int | None, deadline: float | None) -> Servable:
        raise AssertionError((name, version, deadline))

    steps = [StepOptions(model="sum", inputs={"x": "x"}, outputs={"y": "y"})]
    members = Members(find, lease, lambda *_: None, lambda name: tmp_path / name, awaited.__contains__)
    with pytest.raises(Unready):
        make_ensemble(tmp_path, steps, members)


class Step:
    """A servable of one input and one output, whose answer is that of a function."""

    batching: Options | None = None

    def __init__(self, answer: Callable[[Arrays], Awaitable[Arrays]]) -> None:
        spec = TensorSpec("t", DataType.DT_FLOAT, (None,))
        self.signatures = {"serving_default": Signature({"x": spec}, {"y": spec}, batched=True)}
        self._answer = answer

    async def run(self, signature: str, inputs: Arrays, outputs: tuple[str, ...], call: Call) -> Arrays:
        assert (signature, outputs, call.deadline) == ("serving_default", ("y",), None)
        return await self._answer(inputs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None: ...


async def run_both(root: Path, answer: Callable[[Arrays], Awaitable[Arrays]]) -> Arrays:
    """The outputs of an ensemble of two steps that do not depend on each other."""
    step = Step(answer)

    async def lease(*_: object) -> Step:
        return step

    members = Members(lambda *_: step, lease, lambda *_: None, lambda name: root / name, lambda _: False)
    steps = [StepOptions(model=name, inputs={"x": "x"}, outputs={"y": name}) for name in "ab"]
    ensemble = make_ensemble(root, steps, members)
    async with asyncio.timeout(ANSWER_WITHIN):
        call = Call(LoopDelivery(asyncio.get_running_loop()))
        return await ensemble.run_steps({"x": np.ones(1, np.float32)}, ("a", "b"), call)


def test_steps_that_do_not_depend_on_each_other_run_at_the_same_time(tmp_path: Path) -> None:
    async def meet() -> Arrays:
        both = asyncio.Barrier(2)

        async def answer(inputs: Arrays) -> Arrays:
            await both.wait()
            return {"y": inputs["x"]}

        return await run_both(tmp_path, answer)

    assert asyncio.run(meet()).keys() == {"a", "b"}


def test_a_step_that_writes_into_its_input_changes_no_other_steps_input(tmp_path: Path) -> None:
    async def answer(inputs: Arrays) -> Arrays:
        with pytest.raises(ValueError, match="read-only"):  # so a Python model in this process gets a copy
            inputs["x"] += 1
        return {"y": inputs["x"]}

    assert asyncio.run(run_both(tmp_path, answer)) == {"a": [1], "b": [1]}


def test_only_one_of_several_failures_is_reported(tmp_path: Path) -> None:
    """asyncio reports the error of a task that nobody has waited for."""
    reported: list[Any] = []

    async def fail_twice() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        both = asyncio.Barrier(2)

        async def answer(inputs: Arrays) -> Arrays:
            await both.wait()
            raise invalid(f"{len(inputs)} inputs")

        with pytest.raises(ServingError, match=r"step model [ab]: 1 inputs"):
            await run_both(tmp_path, answer)
        gc.collect()

    asyncio.run(fail_twice())
    assert reported == []
