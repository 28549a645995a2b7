"""System shared memory: requests name regions instead of sending bytes, and the regions may change at any time."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from grpc import StatusCode

from headrace_protos import Code
from headrace_protos.inference import grpc_service_pb2 as messages
from headrace_server.errors import ServingError
from headrace_server.services.open_inference.regions import FOLDER, Place, Regions, SystemRegion
from tests.server.services.open_inference.calls import (
    ROW,
    TEN,
    UNKNOWN_ID,
    InferenceCaller,
    array,
    infer_request,
    tensor,
    wanted,
)
from tests.server.services.open_inference.conftest import Infer
from tests.support import models

SIZE = 64


@pytest.fixture(scope="module")
def caller(inferring: Infer) -> InferenceCaller:
    return inferring(models.linear, open_inference_admin="write")


@pytest.fixture
def memory() -> Iterator[Path]:
    """A shared memory object that begins with a row."""
    path = FOLDER / f"headrace-test-{uuid4().hex}"
    path.write_bytes(ROW.tobytes().ljust(SIZE, b"\0"))
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def region(caller: InferenceCaller, memory: Path) -> Iterator[str]:
    """The name of the region as which this object is registered."""
    caller.call(register(memory.name, f"/{memory.name}"))
    yield memory.name
    caller.call(messages.SystemSharedMemoryUnregisterRequest(name=memory.name))


def register(name: str, key: str, byte_size: int = SIZE, offset: int = 0) -> messages.SystemSharedMemoryRegisterRequest:
    return messages.SystemSharedMemoryRegisterRequest(name=name, key=key, byte_size=byte_size, offset=offset)


def use(name: str, size: int = 16, **more: Any) -> dict[str, Any]:
    return {"shared_memory_region": name, "shared_memory_byte_size": size, **more}


def status(caller: InferenceCaller, name: str = "") -> dict[str, Any]:
    return dict(caller.call(messages.SystemSharedMemoryStatusRequest(name=name)).regions)


def test_bytes_that_the_kernel_copies_in_several_steps(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux copies at most 2 GiB in one call."""
    read, write = os.preadv, os.pwrite
    monkeypatch.setattr(os, "preadv", lambda file, views, start: read(file, [views[0][:7]], start))
    monkeypatch.setattr(os, "pwrite", lambda file, data, start: write(file, data[:7], start))
    region, written = SystemRegion("r", memory.name, 0, SIZE), bytes(range(40))
    region.write(10, written)
    assert memory.read_bytes()[10:50] == written
    assert region.read(10, 40) == written


def test_memory_that_ends_within_an_output(memory: Path) -> None:
    memory.write_bytes(bytes(2 * SIZE))
    region = SystemRegion("r", memory.name, 0, 2 * SIZE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, before[1]))  # the kernel then writes a part, as on a full /dev/shm
    try:
        with pytest.raises(ServingError) as raised:
            region.write(0, b"x" * 2 * SIZE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.code == Code.RESOURCE_EXHAUSTED
    assert raised.value.message == "shared memory region 'r' cannot be written: File too large"


def test_an_input_comes_from_a_region(caller: InferenceCaller, region: str) -> None:
    response = caller.call(infer_request([tensor(**use(region))], []))
    assert array(response).tolist() == TEN


def test_a_plain_input_is_read_without_the_interpreter(
    caller: InferenceCaller, transport: str, region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[str] = []
    find = Regions.place

    def noted(self: Regions, name: str, offset: int, size: int) -> Place:
        places.append(name)
        return find(self, name, offset, size)

    monkeypatch.setattr(Regions, "place", noted)
    assert array(caller.call(infer_request([tensor(**use(region))], []))).tolist() == TEN
    assert places == ([region] if transport == "grpcio" else [])


def test_a_part_of_a_region(caller: InferenceCaller, memory: Path, region: str) -> None:
    with memory.open("r+b") as file:
        file.seek(32)
        file.write((ROW * 2).tobytes())
    place = use(region, 16, shared_memory_offset=32)
    assert array(caller.call(infer_request([tensor(**place)], []))).item() == 20


def test_new_bytes_are_seen(caller: InferenceCaller, memory: Path, region: str) -> None:
    with memory.open("r+b") as file:
        file.write((ROW * 3).tobytes())
    assert array(caller.call(infer_request([tensor(**use(region))], []))).item() == 30


def test_an_output_goes_into_a_region(caller: InferenceCaller, memory: Path, region: str) -> None:
    place = use(region, 16, shared_memory_offset=32)
    response = caller.call(infer_request(outputs=[wanted(**place)]))
    assert (list(response.outputs[0].shape), list(response.raw_output_contents)) == ([1, 1], [b""])
    assert np.frombuffer(memory.read_bytes()[32:36], np.float32).item() == 10


def test_raw_contents_count_only_the_other_inputs(inferring: Infer, memory: Path) -> None:
    caller = inferring(models.two_inputs, open_inference_admin="write")
    caller.call(register("r", memory.name))
    mixed = [tensor("a", shape=(1, 2), **use("r", 8)), tensor("b", shape=(1, 2))]
    plain = [tensor("a", shape=(1, 2)), tensor("b", shape=(1, 2))]
    other = np.array([5, 6], np.float32).tobytes()
    expected = caller.call(infer_request(plain, [ROW.tobytes()[:8], other]))
    assert caller.call(infer_request(mixed, [other])).raw_output_contents == expected.raw_output_contents


def test_status_and_unregistering(caller: InferenceCaller, memory: Path) -> None:
    name = memory.name
    caller.call(register(name, name))
    found = status(caller, name)[name]
    assert (found.name, found.key, found.offset, found.byte_size) == (name, name, 0, SIZE)
    assert name in status(caller)
    caller.call(messages.SystemSharedMemoryUnregisterRequest())
    assert status(caller) == {}
    refusal = caller.refusal(messages.SystemSharedMemoryStatusRequest(name=name))
    assert refusal == (StatusCode.NOT_FOUND, f"Unable to find system shared memory region: '{name}'")


def test_an_object_that_shrinks_fails_its_requests_only(caller: InferenceCaller, memory: Path, region: str) -> None:
    """If the server mapped the object, SIGBUS would end its process."""
    os.truncate(memory, 0)
    text = f"shared memory region '{region}' is smaller than when it was registered"
    assert caller.refusal(infer_request([tensor(**use(region))], [])) == (StatusCode.INVALID_ARGUMENT, text)
    assert caller.refusal(infer_request(outputs=[wanted(**use(region))])) == (StatusCode.INVALID_ARGUMENT, text)
    assert array(caller.call(infer_request())).tolist() == TEN
    assert memory.stat().st_size == 0


def test_an_object_that_is_unlinked_stays(caller: InferenceCaller, memory: Path, region: str) -> None:
    memory.unlink()
    assert array(caller.call(infer_request([tensor(**use(region))], []))).tolist() == TEN


@pytest.mark.parametrize(
    ("parameters", "code", "text"),
    [
        *(
            (
                use("REGION", size),
                StatusCode.INVALID_ARGUMENT,
                "Invalid offset + byte size for shared memory region: 'REGION'",
            )
            for size in (65, -1)
        ),
        (use("zz"), StatusCode.NOT_FOUND, "Unable to find shared memory region: 'zz'"),
        (
            use("REGION", shared_memory_offset=56),
            StatusCode.INVALID_ARGUMENT,
            "Invalid offset + byte size for shared memory region: 'REGION'",
        ),
        (
            use("REGION", shared_memory_offset=64),
            StatusCode.INVALID_ARGUMENT,
            "Invalid offset for shared memory region: 'REGION'",
        ),
        (
            use("REGION", shared_memory_offset=-8),
            StatusCode.INVALID_ARGUMENT,
            "Invalid offset for shared memory region: 'REGION'",
        ),
        (
            use("REGION", 12),
            StatusCode.INVALID_ARGUMENT,
            f"{UNKNOWN_ID}input byte size mismatch for input 'x' for model 'model'. Expected 16, got 12",
        ),
        (
            {"shared_memory_region": "REGION"},
            StatusCode.INVALID_ARGUMENT,
            "'shared_memory_byte_size' must be specified along with 'shared_memory_region' parameter for tensor 'x'",
        ),
        (
            {"shared_memory_byte_size": 16},
            StatusCode.INVALID_ARGUMENT,
            "'shared_memory_byte_size' can not be specified without 'shared_memory_region' parameter for tensor 'x'",
        ),
        (
            use("REGION") | {"shared_memory_byte_size": "16"},
            StatusCode.INVALID_ARGUMENT,
            "invalid value type for 'shared_memory_byte_size' parameter for tensor 'x', expected int64_param.",
        ),
    ],
)
def test_offsets_and_sizes_that_are_refused(
    caller: InferenceCaller, region: str, parameters: dict[str, Any], code: StatusCode, text: str
) -> None:
    own: dict[str, Any] = {name: region if value == "REGION" else value for name, value in parameters.items()}
    assert caller.refusal(infer_request([tensor(**own)], [])) == (code, text.replace("REGION", region))


def test_contents_in_addition_to_a_region(caller: InferenceCaller, region: str) -> None:
    both = tensor(contents={"fp32_contents": [1, 2, 3, 4]}, **use(region))
    text = "unexpected 'content' provided when using shared memory for input tensor 'x' for model 'model'"
    assert caller.refusal(infer_request([both], [])) == (StatusCode.INVALID_ARGUMENT, text)


def test_an_output_that_does_not_fit(caller: InferenceCaller, region: str) -> None:
    text = (
        "shared memory size specified with the request for output 'y' (2 bytes) should be at least 4 bytes "
        "to hold the results"
    )
    assert caller.refusal(infer_request(outputs=[wanted(**use(region, 2))])) == (StatusCode.INTERNAL, text)


class TestRegistering:
    def test_a_name_that_is_taken(self, caller: InferenceCaller, region: str) -> None:
        refusal = caller.refusal(register(region, region))
        assert refusal == (StatusCode.ALREADY_EXISTS, f"shared memory region '{region}' already in manager")

    @pytest.mark.parametrize("key", ["nope", "/", "", "../../etc/passwd", "..", "a/b", "a\0b", "x" * 300])
    def test_a_key_that_names_no_object(self, caller: InferenceCaller, key: str) -> None:
        refusal = caller.refusal(register("r", key))
        assert refusal == (StatusCode.INTERNAL, f"Unable to open shared memory region: '{key}'")

    def test_links_and_fifos_are_not_followed(self, caller: InferenceCaller, memory: Path, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_bytes(b"s" * SIZE)
        memory.unlink()
        memory.symlink_to(secret)
        assert caller.refusal(register("r", memory.name)).code == StatusCode.INTERNAL
        memory.unlink()
        os.mkfifo(memory)
        assert caller.refusal(register("r", memory.name)).code == StatusCode.INTERNAL

    @pytest.mark.parametrize(
        ("byte_size", "offset", "reason"),
        [
            (SIZE + 1, 0, "invalid args"),
            (1, 2**63, "invalid args"),
            (0, 0, "unable to process address spaceInvalid argument"),
            (16, 16, "unable to process address spaceInvalid argument"),
        ],
    )
    def test_a_part_outside_of_the_object(
        self, caller: InferenceCaller, memory: Path, byte_size: int, offset: int, reason: str
    ) -> None:
        refusal = caller.refusal(register("r", memory.name, byte_size, offset))
        text = f"failed to register shared memory region 'r': {reason}"
        assert refusal == (StatusCode.INVALID_ARGUMENT, text)
        assert "r" not in status(caller)

    def test_no_file_stays_open(self, caller: InferenceCaller, memory: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            caller.refusal(register("r", memory.name, SIZE + 1))
            caller.call(register("r", memory.name))
            caller.call(messages.SystemSharedMemoryUnregisterRequest(name="r"))
        assert len(os.listdir("/proc/self/fd")) <= before + 2

    def test_registering_needs_a_flag(self, inferring: Infer, memory: Path) -> None:
        caller = inferring(models.linear)
        code, text = caller.refusal(register("r", memory.name))
        assert code == StatusCode.UNIMPLEMENTED
        assert "--open_inference_admin=write" in text
        assert status(caller) == {}
        caller.call(messages.SystemSharedMemoryUnregisterRequest())


def test_cuda_memory_without_a_gpu(caller: InferenceCaller) -> None:
    assert dict(caller.call(messages.CudaSharedMemoryStatusRequest()).regions) == {}
    caller.call(messages.CudaSharedMemoryUnregisterRequest())
    refusal = caller.refusal(messages.CudaSharedMemoryRegisterRequest(name="c", raw_handle=b"\0" * 64, byte_size=16))
    assert refusal.code == StatusCode.INVALID_ARGUMENT
