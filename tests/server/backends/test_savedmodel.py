"""SavedModels in TensorFlow: shapes, dtypes, strings, Examples, errors, batches, and what cannot be loaded."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from grpc import StatusCode

from headrace_protos import Code, Example, RegressionRequest, SignatureDefMap
from tests.server.backends.conftest import HERE, ServeTensorflow
from tests.support.calls import (
    Caller,
    Refusal,
    arrays,
    floats,
    metadata_request,
    name_model,
    predict_request,
    refusal_of,
)
from tests.support.running import ServerProcess, read_served

# Four rows make a batch, and requests wait for others.
TOGETHER = """
max_batch_size { value: 4 } batch_timeout_micros { value: 100000 } num_batch_threads { value: 1 }
"""
BAD_EXAMPLE = b"\xff\xfe no Example"


class Servers(NamedTuple):
    alone: Caller
    together: Caller
    batching: ServerProcess


@pytest.fixture(scope="module")
def servers(
    tensorflow_models: Path, serve_tensorflow: ServeTensorflow, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    """A server with a SavedModel of many signatures, and one that also batches."""
    parameters = tmp_path_factory.mktemp("batching") / "parameters.pbtxt"
    parameters.write_text(TOGETHER)
    many = tensorflow_models / "many"
    alone = serve_tensorflow(many, "--enable_batching=false", "--tensorflow_session_parallelism=1", "--enable_profiler")
    together = serve_tensorflow(many, f"--batching_parameters_file={parameters}", "--enable_profiler")
    callers = alone.started(), together.started()
    yield Servers(*callers, together)
    for caller in callers:
        caller.close()


def strings(*items: bytes) -> npt.NDArray[np.object_]:
    return np.array(items, np.object_)


def example(x: float) -> bytes:
    message = Example()
    message.features.feature["x"].float_list.value.append(x)
    return message.SerializeToString()


@pytest.mark.parametrize("shape", [(3, 1), (3,), (), (2, 3, 4), (0,), (0, 1)])
def test_any_shape_that_the_operators_take(servers: Servers, shape: tuple[int, ...]) -> None:
    answer = servers.alone.predict({"x": np.full(shape, 4, np.float32)})

    assert answer["y"].shape == shape
    assert np.all(answer["y"] == 4.0)


@pytest.mark.parametrize(("dtype", "name"), [("f8", "double"), ("i4", "int32"), ("f2", "half"), ("?", "bool")])
def test_a_wrong_dtype(servers: Servers, dtype: str, name: str) -> None:
    refusal = servers.alone.refusal(predict_request({"x": np.zeros(1, dtype)}))

    assert refusal == Refusal(StatusCode.INVALID_ARGUMENT, f"Expects arg[0] to be float but {name} is provided")


def test_the_position_of_a_wrong_dtype_is_that_among_the_feeds(servers: Servers) -> None:
    inputs = {"a": floats([1.0])[0], "b": np.array([1.0])}

    refusal = servers.alone.refusal(predict_request(inputs, signature_name="subtract"))

    assert refusal.text == "Expects arg[1] to be float but double is provided"


def test_a_shape_that_an_operator_refuses_fails_with_its_text(servers: Servers) -> None:
    request = predict_request({"x": floats([1.0, 2.0, 3.0])}, signature_name="linear")

    code, text = servers.alone.refusal(request)

    assert code == StatusCode.INVALID_ARGUMENT
    assert text.startswith("Matrix size-incompatible: In[0]: [1,3], In[1]: [2,1]\n\t [[{{node ")
    assert text.endswith("}}]]")


def test_inputs_are_distinguished_by_alias(servers: Servers) -> None:
    inputs = {"b": np.array([1.0, 2.0], np.float32), "a": np.array([10.0, 20.0], np.float32)}

    assert servers.alone.predict(inputs, signature_name="subtract")["difference"].tolist() == [9.0, 18.0]


def test_strings_are_bytes(servers: Servers) -> None:
    answer = servers.alone.predict({"text": strings(b"a\0", b"\xffb", b"")}, signature_name="upper")

    assert answer["upper"].tolist() == [b"A\0", b"\xffB", b""]


def test_examples_are_parsed_in_the_graph(servers: Servers) -> None:
    answer = servers.alone.predict({"inputs": strings(example(2.0), example(4.0))}, signature_name="parse")

    assert answer["outputs"].tolist() == [[3.0], [4.0]]


def test_regress_feeds_examples_to_the_graph(servers: Servers) -> None:
    request = RegressionRequest()
    name_model(request, signature_name="parse")
    for x in (2.0, 4.0):
        request.input.example_list.examples.add().ParseFromString(example(x))

    results = servers.together.call(request).result.regressions

    assert [result.value for result in results] == [3.0, 4.0]


@pytest.mark.parametrize(
    ("value", "begins"),
    [
        (BAD_EXAMPLE, "Could not parse example input, value: '�� no Example'\n\t [["),
        (b"", "Name: <unknown>, Feature: x (data type: float) is required but could not be found.\n\t [["),
    ],
)
def test_an_example_that_cannot_be_parsed(servers: Servers, value: bytes, begins: str) -> None:
    code, text = servers.alone.refusal(predict_request({"inputs": strings(value)}, signature_name="parse"))

    assert code == StatusCode.INVALID_ARGUMENT
    assert text.startswith(begins)


def test_an_output_filter(servers: Servers) -> None:
    answer = servers.alone.predict({"x": np.array([99], np.int64)}, signature_name="small", outputs=["same"])

    assert {alias: array.tolist() for alias, array in answer.items()} == {"same": [99]}


def test_values_that_an_operator_refuses_fail_with_its_text(servers: Servers) -> None:
    code, text = servers.alone.refusal(predict_request({"x": np.array([100], np.int64)}, signature_name="small"))

    assert code == StatusCode.INVALID_ARGUMENT
    assert text.startswith("too large : Tensor had Inf values\n\t [[{{")
    assert text.endswith("{{node CheckNumerics}}]]")


def test_a_default_fills_a_missing_input(servers: Servers) -> None:
    x, by = np.array([1.0, 2.0], np.float32), np.array([10.0], np.float32)

    assert servers.alone.predict({"x": x}, signature_name="shift")["shifted"].tolist() == [6.0, 7.0]
    assert servers.alone.predict({"x": x, "by": by}, signature_name="shift")["shifted"].tolist() == [11.0, 12.0]
    assert servers.alone.refusal(predict_request({"by": by}, signature_name="shift")) == Refusal(
        StatusCode.INVALID_ARGUMENT,
        "Signature input alias: x(feed name: shift_x:0) not found in request and no default value provided. "
        "Inputs expected to be in the request {by}, or default input alias set: by",
    )


def test_an_unknown_signature(servers: Servers) -> None:
    refusal = servers.alone.refusal(predict_request({"x": floats([1.0])}, signature_name="none"))

    assert refusal == Refusal(StatusCode.FAILED_PRECONDITION, 'Serving signature key "none" not found.')


def test_metadata_are_the_models_own_signature_defs(servers: Servers, tensorflow_models: Path) -> None:
    answered = SignatureDefMap()
    assert servers.alone.call(metadata_request("signature_def")).metadata["signature_def"].Unpack(answered)

    assert answered == SignatureDefMap.FromString((tensorflow_models / "many" / "signatures").read_bytes())
    assert answered.signature_def["serving_default"].inputs["x"].name == "serving_default_x:0"
    assert not answered.signature_def["__saved_model_init_op"].method_name


def test_the_log_shows_every_signature(servers: Servers) -> None:
    log = "\n".join(servers.batching.log)

    assert "__saved_model_init_op: nothing -> __saved_model_init_op invalid[]" in log
    assert "Logging error" not in log


def test_requests_of_one_shape_share_a_batch_and_others_do_not(servers: Servers) -> None:
    inputs = [floats([2.0], [4.0]), floats([6.0], [8.0]), np.array([10.0], np.float32), np.zeros((1, 1, 1), np.float32)]

    pending = [servers.together.begin(predict_request({"x": array})) for array in inputs]

    answers = [arrays(future.result())["y"].tolist() for future in pending]
    assert answers == [[[3.0], [4.0]], [[5.0], [6.0]], [7.0], [[[2.0]]]]


def test_with_batching_a_request_without_rows_has_an_answer_without_rows(servers: Servers) -> None:
    assert servers.together.predict({"x": np.zeros((0, 1), np.float32)})["y"].shape == (0, 1)


def test_an_example_that_fails_in_a_batch_fails_alone(servers: Servers) -> None:
    values = [example(2.0), BAD_EXAMPLE, example(4.0), example(6.0)]

    pending = [servers.together.begin(predict_request({"inputs": strings(v)}, signature_name="parse")) for v in values]

    error = pending.pop(1).exception()
    assert refusal_of(error).code == StatusCode.INVALID_ARGUMENT
    assert [arrays(future.result())["outputs"].tolist() for future in pending] == [[[3.0]], [[4.0]], [[5.0]]]


def test_whether_requests_share_batches_is_tried_for_each_signature(servers: Servers) -> None:
    found = {
        name: "share batches" in line
        for line in servers.batching.log
        for name in ("serving_default", "parse", "upper", "rank", "weigh", "total")
        if f", {name}: requests " in line
    }
    yes = dict.fromkeys(("serving_default", "parse", "upper", "weigh"), True)
    assert found == {**yes, "rank": False, "total": False}


def test_rows_that_mix_run_one_by_one(servers: Servers) -> None:
    sent = [floats([number], [0.0]) for number in range(12)]
    requests = [predict_request({"x": x}, signature_name="rank") for x in sent]
    answers = [arrays(future.result())["part"] for future in map(servers.together.begin, requests)]

    for x, answer in zip(sent, answers, strict=True):
        np.testing.assert_allclose(answer, np.exp(x - x.max()) / np.exp(x - x.max()).sum(), rtol=1e-5)


def test_shapes_that_are_not_declared_are_never_joined(servers: Servers) -> None:
    """The rows of [N, 2] are independent; joined vectors would become one vector."""
    sent = [np.array([number, 0, 1], np.float32) for number in range(12)]
    requests = [predict_request({"x": x}, signature_name="weigh") for x in sent]
    answers = [arrays(future.result())["part"] for future in map(servers.together.begin, requests)]

    for x, answer in zip(sent, answers, strict=True):
        np.testing.assert_allclose(answer, np.exp(x - x.max()) / np.exp(x - x.max()).sum(), rtol=1e-5)


def test_with_batching_a_scalar_runs_alone(servers: Servers) -> None:
    """TF Serving refuses it: "Batching Run() input tensors must have at least one dimension"."""
    assert servers.together.predict({"x": np.array(1.0, np.float32)})["y"] == 2.5


def test_a_signature_that_declares_a_scalar_runs_one_by_one(servers: Servers) -> None:
    inputs = {"x": np.array([1.0, 2.0], np.float32), "k": np.array(10.0, np.float32)}

    assert servers.together.predict(inputs, signature_name="total")["total"] == 30.0


def test_the_profiler_is_tensorflows(servers: Servers) -> None:
    assert servers.alone.send_bytes("/tensorflow.ProfilerService/Terminate", b"") == b""
    assert any(line.endswith("Profiler service is enabled") for line in servers.batching.log)


def test_batches_are_counted_and_the_server_ends_well(servers: Servers) -> None:
    pending = [servers.together.begin(predict_request({"x": floats([float(n)])})) for n in range(4)]
    assert [arrays(future.result())["y"].item() for future in pending] == [2.0, 2.5, 3.0, 3.5]

    servers.batching.terminate()

    assert servers.batching.ended() == 0
    requests, _, batches = read_served(servers.batching.log)
    assert batches < requests


def test_folders_that_can_be_loaded_and_others(
    tensorflow_models: Path, tensorflow_server_python: Path, tmp_path: Path
) -> None:
    garbled, empty, bundle, untagged, bare = (
        tmp_path / name for name in ("garbled", "empty", "bundle", "tags", "bare")
    )
    for folder in (garbled, empty, bundle, untagged):
        folder.mkdir()
    (garbled / "saved_model.pb").write_bytes(b"no proto")
    (bundle / "export.meta").touch()
    (untagged / "saved_model.pb").touch()
    shutil.copytree(tensorflow_models / "many" / "1", bare)
    shutil.rmtree(bare / "variables")
    tagged = tensorflow_models / "tagged" / "1"

    script = HERE / "load_in_tensorflow.py"
    bytes_only = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    shutil.copytree(tagged, bytes_only)  # the path is not valid UTF-8

    folders = [f"{tagged}:serve,treble", tagged, bytes_only, garbled, empty, bundle, untagged, bare]
    run = subprocess.run(
        [tensorflow_server_python, script, *map(str, folders)], capture_output=True, text=True, check=True
    )

    trebled, doubled, elsewhere, *failures = json.loads(run.stdout)
    assert (doubled, elsewhere, trebled) == ([5.0], [5.0], [7.0])
    assert failures[0] == [Code.DATA_LOSS, f"Can't parse {garbled}/saved_model.pb as binary proto"]
    assert failures[1][0] == Code.NOT_FOUND
    assert failures[1][1].startswith(
        "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
        f"`saved_model.pb`)\nSpecified file path: {empty}\n"
    )
    assert failures[2] == [Code.UNIMPLEMENTED, "Session Bundle is deprecated and removed."]
    assert failures[3][0] == Code.NOT_FOUND
    assert failures[3][1].startswith("Could not find meta graph def matching supplied tags: { serve }. ")
    assert failures[4][0] != Code.OK
    assert failures[4][1].startswith(f"{bare} cannot be loaded: ")


def test_which_models_values_in_a_request_can_harm(tensorflow_models: Path, tensorflow_server_python: Path) -> None:
    script, folder = HERE / "risks_in_tensorflow.py", tensorflow_models / "bounded"
    run = subprocess.run([tensorflow_server_python, script, folder], capture_output=True, text=True, check=True)

    assert json.loads(run.stdout) == {
        "filled": [["Fill"], []],
        "repeated": [["Tile"], []],
        "filled_in_a_branch": [["Fill"], []],
        "filled_in_a_loop": [["Fill"], []],
        "filled_after_a_loop": [["Fill"], []],
        "lists": [["DenseBincount", "RaggedTensorToTensor"], []],
        "image": [["DecodePng"], []],
        "counting": [[], ["StatelessWhile"]],
        "counting_in_a_branch": [[], ["StatelessWhile"]],
        "counting_as_in_tensorflow_1": [[], ["LoopCond"]],
        "widened": [],
        "mapped": [],
        "counting_rows": [],
        "one_hot": [],
        "looked_up": [],
    }


def test_an_answer_for_which_there_is_no_memory(tensorflow_models: Path, serve_tensorflow: ServeTensorflow) -> None:
    server = serve_tensorflow(tensorflow_models / "bounded" / "filled", "--tensorflow_session_parallelism=1")
    caller = server.started()

    code, text = caller.refusal(predict_request({"x": np.array([1 << 20, 1 << 15], np.int32)}))
    assert code == StatusCode.RESOURCE_EXHAUSTED
    assert text.startswith("OOM when allocating tensor with shape[1048576,32768] and type float")
    assert caller.predict({"x": np.array([2, 1], np.int32)})["y"].tolist() == [[1.0], [1.0]]
    assert any("a request can make its operator Fill take any amount of memory" in line for line in server.log)
    caller.close()
