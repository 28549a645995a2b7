"""TFLite models: signatures from the file or derived, resizing, strings, errors, and files that cannot be loaded."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode

from headrace_protos import Code, SignatureDefMap
from tests.server.backends.conftest import HERE, ServeTensorflow
from tests.support.calls import Caller, Refusal, arrays, floats, metadata_request, predict_request
from tests.support.running import ServerProcess

FLAGS = ("--prefer_tflite_model", "--num_tflite_pools=2")


@pytest.fixture(scope="module")
def callers(tensorflow_models: Path, serve_tensorflow: ServeTensorflow) -> Iterator[Mapping[str, Caller]]:
    """A server for the model without signatures, and one for the model with them."""
    processes = {name: serve_tensorflow(tensorflow_models / name, *FLAGS) for name in ("tflite", "tflite_signature")}
    started = {name: process.started() for name, process in processes.items()}
    yield started
    for caller in started.values():
        caller.close()


@pytest.fixture(scope="module")
def plain(callers: Mapping[str, Caller]) -> Caller:
    """The server for the model without signatures."""
    return callers["tflite"]


def inputs(rows: int) -> dict[str, Any]:
    return {
        "x": np.arange(2 * rows, dtype=np.float32).reshape(rows, 2),
        "text": np.array([b"abc", b"\xff\0c"] * rows, np.object_)[:rows],
    }


def test_inputs_are_resized_to_each_request(plain: Caller) -> None:
    for rows in (1, 3, 2, 2):
        answer = plain.predict(inputs(rows))

        assert answer["Identity"].tolist() == ([True, False] * rows)[:rows]
        assert answer["Identity_1"].tolist() == [[22.0 * row + 10.0] for row in range(rows)]


def test_a_derived_signature_names_the_tensors(plain: Caller) -> None:
    answered = SignatureDefMap()
    plain.call(metadata_request("signature_def")).metadata["signature_def"].Unpack(answered)

    (name, signature), *others = answered.signature_def.items()
    assert (name, others, signature.method_name) == ("serving_default", [], "tensorflow/serving/predict")
    assert {alias: info.name for alias, info in signature.inputs.items()} == {"x": "x", "text": "text"}
    assert set(signature.outputs) == {"Identity", "Identity_1"}


def test_a_signature_from_the_file(callers: Mapping[str, Caller]) -> None:
    request = {"number": floats([1.0, 2.0]), "text": np.array([b"abc"], np.object_)}

    answer = callers["tflite_signature"].predict(request, signature_name="named")

    assert answer["number"].tolist() == [[21.0]]
    assert answer["is_abc"].tolist() == [True]


def test_requests_of_several_callers(plain: Caller) -> None:
    pending = [plain.begin(predict_request(inputs(rows))) for rows in (1, 2, 3, 1, 2, 3)]

    assert [len(arrays(future.result())["Identity"]) for future in pending] == [1, 2, 3, 1, 2, 3]


@pytest.fixture(scope="module")
def alone(tensorflow_models: Path, serve_tensorflow: ServeTensorflow) -> Mapping[str, ServerProcess]:
    """Servers with one model each, whose batches wait for more requests as long as is allowed."""
    names = (
        "tflite_three",
        "tflite_ranked",
        "tflite_positive",
        "tflite_filled",
        "tflite_counting",
        "tflite_widened",
        "tflite_lstm",
    )
    return {name: serve_tensorflow(tensorflow_models / name, *FLAGS) for name in names}


def test_outputs_whose_names_differ_only_after_the_colon_are_all_served(alone: Mapping[str, ServerProcess]) -> None:
    """TF Serving returns only one of them: their names are equal up to the colon."""
    caller = alone["tflite_three"].started()
    answer = caller.predict({"serving_default_x": floats([1, 2])})
    caller.close()

    assert sorted(array.tolist() for array in answer.values()) == [[[2, 4]], [[3, 6]], [[5, 10]]]
    (stem,) = {name.partition(":")[0] for name in answer}
    assert stem in answer


def test_an_output_without_elements(alone: Mapping[str, ServerProcess]) -> None:
    caller = alone["tflite_positive"].started()
    some, none = (caller.predict({"x": np.array(values, np.float32)})["Identity"] for values in ([1, -1, 2], [-1, -2]))
    caller.close()

    assert some.tolist() == [[0], [2]]
    assert (none.shape, none.dtype) == ((0, 1), np.dtype(np.int64))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tflite_filled", "a request can make its operator FILL take any amount of memory"),
        ("tflite_counting", "a request can make its operator WHILE run for hours"),
        ("tflite_widened", ""),
        ("tflite_lstm", ""),
    ],
)
def test_a_model_runs_in_a_worker_process_if_values_in_a_request_bound_its_run(
    alone: Mapping[str, ServerProcess], name: str, reason: str
) -> None:
    server = alone[name]
    server.started().close()
    lines = [line for line in server.log if "runs in a worker process" in line]
    assert [reason in line for line in lines] == [True] * bool(reason)


def test_rows_that_mix_run_one_by_one(alone: Mapping[str, ServerProcess]) -> None:
    caller = alone["tflite_ranked"].started()
    pending = [caller.begin(predict_request({"x": floats([number, -number])})) for number in range(20)]
    answers = [arrays(future.result())["Identity"].tolist() for future in pending]
    caller.close()

    assert answers == [[[1, 1]]] * 20
    assert any(
        "serving_default: requests run one by one: output 'Identity'" in line for line in alone["tflite_ranked"].log
    )


def test_a_wrong_dtype(plain: Caller) -> None:
    refusal = plain.refusal(predict_request({**inputs(1), "x": np.zeros((1, 2), np.float64)}))

    assert refusal == Refusal(StatusCode.INVALID_ARGUMENT, "Expects arg[1] to be float but double is provided")


def test_a_shape_that_an_operator_refuses(plain: Caller) -> None:
    code, text = plain.refusal(predict_request({**inputs(3), "x": np.zeros(3, np.float32)}))

    assert code == StatusCode.INTERNAL
    assert text.startswith("Failed to ")
    assert len(plain.predict(inputs(2))["Identity"]) == 2


def test_files_that_cannot_be_loaded(tensorflow_models: Path, tensorflow_server_python: Path, tmp_path: Path) -> None:
    content = (tensorflow_models / "tflite_signature" / "1" / "model.tflite").read_bytes()
    contents = {
        "garbled": b"no model",
        "signature": content.replace(b"x:0", b"z:0"),
    }
    for name, written in contents.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.tflite").write_bytes(written)

    script = HERE / "load_in_tensorflow.py"
    folders = [tmp_path / name for name in contents]
    run = subprocess.run([tensorflow_server_python, script, *folders], capture_output=True, text=True, check=True)

    garbled, signature = json.loads(run.stdout)
    assert garbled[0] == Code.INVALID_ARGUMENT
    assert garbled[1].startswith(f"{folders[0] / 'model.tflite'}: Cannot build FlatBufferModel from buffer.")
    assert signature[0] == Code.INTERNAL
    assert "Signature input number references an unknown tensor: Unknown tensor 'z:0'." in signature[1]


@pytest.mark.parametrize("pools", [1, 3])
def test_state_of_a_run_is_not_visible_to_other_callers(
    tensorflow_models: Path, serve_tensorflow: ServeTensorflow, pools: int
) -> None:
    """A sum in a variable, and the state of a recurrent layer: each call starts from the initial state."""
    for name, x in (("tflite_stateful", floats([5.0])), ("tflite_lstm", np.ones((1, 3, 2), np.float32))):
        flags = ("--prefer_tflite_model", f"--num_tflite_pools={pools}")
        caller = serve_tensorflow(tensorflow_models / name, *flags).started()
        alias = next(iter(signature_of(caller).inputs))
        answers = [next(iter(caller.predict({alias: x}).values())) for _ in range(5)]
        caller.close()

        assert all((answer == answers[0]).all() for answer in answers)
        if name == "tflite_stateful":
            assert answers[0].tolist() == [[5.0]]


def signature_of(caller: Caller) -> Any:
    """The default signature that a server reports."""
    answered = SignatureDefMap()
    caller.call(metadata_request("signature_def")).metadata["signature_def"].Unpack(answered)
    return answered.signature_def["serving_default"]
