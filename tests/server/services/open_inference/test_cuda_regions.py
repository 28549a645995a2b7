"""CUDA shared memory, on the double of a GPU."""

from base64 import b64encode
from collections.abc import Iterator

import numpy as np
import pytest
from grpc import StatusCode

from headrace_protos.inference import grpc_service_pb2 as messages
from tests.conftest import Rest
from tests.gpu_doubles.installed import install_cuda
from tests.gpu_doubles.machine import CudaError, Machine
from tests.server.services.open_inference.calls import ROW, TEN, InferenceCaller, array, infer_request, tensor, wanted
from tests.server.services.open_inference.conftest import Infer
from tests.server.services.open_inference.test_regions import use
from tests.support import models

HANDLE = bytes(range(64))
SIZE = 256


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A GPU on which another process has shared SIZE bytes, which begin with a row."""
    machine = Machine()
    install_cuda(monkeypatch, machine)
    memory = machine.new_memory(SIZE, 0)
    memory.at(memory.address, ROW.nbytes)[:] = np.frombuffer(ROW.tobytes(), np.uint8)
    machine.shared[HANDLE] = memory
    yield machine
    machine.free_memory(memory)
    assert machine.complaints == []
    machine.check_nothing_left()


@pytest.fixture(scope="module")
def caller(inferring: Infer) -> InferenceCaller:
    return inferring(models.linear, open_inference_admin="write")


def register(
    name: str = "r", handle: bytes = HANDLE, byte_size: int = SIZE, device: int = 0
) -> messages.CudaSharedMemoryRegisterRequest:
    return messages.CudaSharedMemoryRegisterRequest(name=name, raw_handle=handle, device_id=device, byte_size=byte_size)


def unregister(caller: InferenceCaller, name: str = "") -> None:
    caller.call(messages.CudaSharedMemoryUnregisterRequest(name=name))


def test_inputs_and_outputs(caller: InferenceCaller, machine: Machine) -> None:
    caller.call(register())
    place = use("r", 16, shared_memory_offset=64)
    request = infer_request([tensor(**use("r"))], [], outputs=[wanted(**place)])
    response = caller.call(request)
    assert (list(response.outputs[0].shape), list(response.raw_output_contents)) == ([1, 1], [b""])
    memory = machine.shared[HANDLE]
    assert memory.at(memory.address + 64, 4).view(np.float32).tolist() == TEN[0]
    unregister(caller, "r")


def test_status_and_unregistering(caller: InferenceCaller, machine: Machine) -> None:
    caller.call(register())
    (region,) = caller.call(messages.CudaSharedMemoryStatusRequest()).regions.values()
    assert (region.name, region.device_id, region.byte_size) == ("r", 0, SIZE)
    refusal = caller.refusal(register())
    assert refusal == (StatusCode.ALREADY_EXISTS, "shared memory region 'r' already in manager")
    unregister(caller)
    refusal = caller.refusal(infer_request([tensor(**use("r"))], []))
    assert refusal == (StatusCode.NOT_FOUND, "Unable to find shared memory region: 'r'")
    assert machine.retained == [0]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (register(handle=b"\0" * 64), "failed to register shared memory region: GPU 0: cuIpcOpenMemHandle failed"),
        (
            register(handle=b"short"),
            "failed to register shared memory region: a CUDA IPC handle must have 64 bytes; had 5",
        ),
        (register(byte_size=SIZE + 1), "failed to register shared memory region 'r': invalid args"),
        (register(byte_size=0), "failed to register shared memory region 'r': invalid args"),
        (register(device=7), "failed to register CUDA shared memory region: 'r', GPUs not supported"),
        (register(device=-1), "failed to register CUDA shared memory region: 'r', there is no GPU -1"),
    ],
)
def test_invalid_registrations(
    caller: InferenceCaller, machine: Machine, request_: messages.CudaSharedMemoryRegisterRequest, text: str
) -> None:
    code, answer = caller.refusal(request_)
    assert (code, answer[: len(text)]) == (StatusCode.INVALID_ARGUMENT, text)
    assert machine.retained == [0]


def test_a_copy_that_fails(caller: InferenceCaller, machine: Machine) -> None:
    caller.call(register())
    machine.failures["memcpy_dtoh"] = CudaError("the other process has gone")
    code, text = caller.refusal(infer_request([tensor(**use("r"))], []))
    assert code == StatusCode.INTERNAL
    assert "the other process has gone" in text
    assert array(caller.call(infer_request())).tolist() == TEN
    unregister(caller)


def test_over_rest(resting: Rest, machine: Machine) -> None:
    rest = resting(models.linear, open_inference_admin="write")
    region = "/v2/cudasharedmemory/region/r"
    body = {"raw_handle": {"b64": b64encode(HANDLE).decode()}, "device_id": 0, "byte_size": SIZE}
    assert rest.send("POST", f"{region}/register", {**body, "raw_handle": {}}).status == 400
    assert rest.send("POST", f"{region}/register", body).status == 200
    assert rest.get("/v2/cudasharedmemory/status").value == [{"name": "r", "device_id": 0, "byte_size": SIZE}]
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": use("r")}]
    answer = rest.send("POST", "/v2/models/model/infer", {"inputs": inputs})
    assert answer.value["outputs"][0]["data"] == [10]
    assert rest.send("POST", f"{region}/unregister").status == 200
    assert machine.retained == [0]
