"""A generator that answers a thousand times, to a hundred fast and slow readers, some of whom leave."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from headrace_protos.inference.grpc_service_pb2 import ModelInferRequest, ModelStreamInferResponse
from scripts.bench.process import Server
from tests.support.running import eventually

from .served import SERVICE, Models, infer_request

READERS = 100
ANSWERS = 1000
LEAVERS = 20
PAUSE = 0.004
"""The seconds that a slow reader takes per answer."""

MOST_GROWTH = 16 << 20
"""The number of bytes that the server may grow by once all streams run."""

MOST_SECONDS = 0.1
"""The seconds allowed from when a caller leaves until its generator ends."""

_MODEL = '''
"""Counts, and notes when a count ends before its time."""

import time
from pathlib import Path

import numpy as np

INPUTS = {"count": ("int64", [1]), "name": ("int64", [1])}
OUTPUTS = {"number": ("int64", [1]), "padding": ("float32", [256])}

padding = np.zeros(256, np.float32)


async def stream(inputs):
    count, name = int(inputs["count"][0]), int(inputs["name"][0])
    try:
        for number in range(count):
            yield {"number": np.array([number]), "padding": padding}
    finally:
        Path(__file__).with_name(f"ended-{name}").write_text(str(time.time()))
'''


def check(folder: Path) -> str:
    """Reads all streams at once, half of them slowly; then cancels some in the middle.

    Raises:
        AssertionError: An answer is missing, the server grows, or a generator continues without a reader.
    """
    models = Models(folder / "models")
    version = models.add("count", code=_MODEL)
    with models.served() as server:
        growth, seconds = asyncio.run(_read_all(server))
        delays = asyncio.run(_leave(server.address, version))
    assert growth < MOST_GROWTH, f"the server has grown by {growth >> 20} MB"
    median, most = 1e3 * np.median(delays), 1e3 * max(delays)
    late = f"cancelled streams ended after {median:.0f} ms at the median, {most:.0f} at most"
    assert max(delays) < MOST_SECONDS, late
    return f"{READERS} readers x {ANSWERS} answers in {seconds:.1f} s; grown by {growth >> 10} KB; {late}"


async def _read_all(server: Server) -> tuple[int, float]:
    """The number of bytes that the server has grown by since all streams began, and the total seconds."""
    began = time.monotonic()
    async with grpc.aio.insecure_channel(server.address) as channel:
        readers = [asyncio.create_task(_read(channel, name, name % 2 == 0)) for name in range(READERS)]
        watching = asyncio.create_task(_sizes(server))
        await asyncio.gather(*readers)
        watching.cancel()
        sizes = (await asyncio.gather(watching, return_exceptions=True))[0]
    assert isinstance(sizes, list)
    settled = len(sizes) // 5
    return max(sizes[settled:]) - sizes[settled], time.monotonic() - began


async def _sizes(server: Server) -> list[int]:
    """Records the memory of the server and its processes until this is cancelled."""
    sizes = []
    try:
        while True:
            sizes.append(server.family_rss_bytes())
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        return sizes


def _stream(channel: grpc.aio.Channel, name: int, count: int) -> Any:
    inputs = {"count": np.array([count]), "name": np.array([name])}

    async def requests() -> AsyncIterator[ModelInferRequest]:
        yield infer_request("count", inputs)

    call = channel.stream_stream(
        f"{SERVICE}ModelStreamInfer", ModelInferRequest.SerializeToString, ModelStreamInferResponse.FromString
    )
    return call(requests(), timeout=300)


async def _read(channel: grpc.aio.Channel, name: int, slow: bool) -> None:
    expected = 0
    async for answer in _stream(channel, name, ANSWERS):
        assert _number(answer) == expected, f"{_number(answer)} came for {expected}"
        expected += 1
        if slow:
            await asyncio.sleep(PAUSE)
    assert expected == ANSWERS, f"{expected} answers came"


def _number(answer: ModelStreamInferResponse) -> int:
    assert not answer.error_message, answer.error_message
    names = [output.name for output in answer.infer_response.outputs]
    return int(np.frombuffer(answer.infer_response.raw_output_contents[names.index("number")], np.int64)[0])


def _ended(note: Path) -> float:
    """Waits until a generator has ended; returns the time of its end."""
    return float(eventually(lambda: note.exists() and note.read_text()) or 0)


async def _leave(address: str, version: Path) -> list[float]:
    """Seconds from each cancellation to the end of its generator."""
    delays = []
    async with grpc.aio.insecure_channel(address) as channel:
        for name in range(READERS, READERS + LEAVERS):
            call = _stream(channel, name, 10**9)
            await call.read()
            left = time.time()
            call.cancel()
            ended = await asyncio.to_thread(_ended, version / f"ended-{name}")
            delays.append(ended - left)
    return delays
