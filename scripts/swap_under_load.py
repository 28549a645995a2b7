"""Puts a new version of a model into service every second while callers call: python -m scripts.swap_under_load."""

import asyncio
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import numpy as np

from headrace_protos import ModelVersionStatus, PredictResponse
from headrace_protos.tensor import to_array
from scripts.bench.machine import description
from scripts.bench.process import Server, running
from scripts.versions import PREDICT, models, predict_request, states, write_version

CALLERS = 32
SWAPS = 60
WINDOWS = 6  # windows with swaps, each followed by a quiet one of equal length, so that other load affects both alike
PAUSE = 0.02  # seconds between two calls of a caller, so that the machine is busy but not full
LIMIT = 1.5
PATIENCE = 30.0
REPORT = Path(__file__).parents[1] / "docs" / "operations" / "swap_under_load.md"

Window = tuple[float, float]


@dataclass
class Answers:
    """The answers to the callers of the swapped model."""

    calls: int = 0
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    versions: set[int] = field(default_factory=set)


@dataclass
class Timeline:
    """The windows with and without swaps, on the monotonic clock."""

    quiet: list[Window] = field(default_factory=list)
    swapping: list[Window] = field(default_factory=list)


def main() -> int:
    """Measures, writes the report; returns 1 if a call failed, an answer was wrong, or the other model was too slow."""
    machine = description()
    with tempfile.TemporaryDirectory(prefix="headrace-swaps-") as folder:
        root = Path(folder)
        _write_models(root)
        with running(lambda port: _command(port, root), root / "log") as server:
            answers, timeline, latencies = _measure(server, root)
    quiet, swapping = (_p99(latencies, windows) for windows in (timeline.quiet, timeline.swapping))
    text = _report(machine, answers, quiet, swapping)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(text)
    print(text)
    good = not answers.failed and not answers.wrong and len(answers.versions) > SWAPS
    return 0 if good and swapping <= LIMIT * quiet else 1


def _write_models(root: Path) -> None:
    write_version(root / "steady" / "1", 1)
    write_version(root / "swapped" / "1", 1)
    for version in range(2, SWAPS + 2):
        write_version(root / "staged" / str(version), version)
    (root / "models.config").write_text(str(models(root, "steady", "swapped")))


def _command(port: int, root: Path) -> list[str]:
    return [
        str(Path(sys.executable).with_name("headrace")),
        "serve",
        f"--port={port}",
        f"--model_config_file={root / 'models.config'}",
    ]


def _measure(server: Server, root: Path) -> tuple[Answers, Timeline, np.ndarray]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    steady = context.Process(target=_call_steadily, args=(server.address, theirs))
    steady.start()
    try:
        answers, timeline = asyncio.run(_swap_under_load(server.address, root))
    finally:
        ours.send("stop")
    latencies = ours.recv()
    steady.join()
    return answers, timeline, latencies


def _call_steadily(address: str, stop: Connection) -> None:
    """Calls the other model, one call after the other; sends the start and the length of each back, in seconds."""
    request = predict_request("steady")
    timed = []
    with grpc.insecure_channel(address) as channel:
        predict: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PREDICT)
        while not stop.poll(0.002):
            began = time.monotonic()
            predict(request, timeout=PATIENCE)
            timed.append((began, time.monotonic() - began))
    stop.send(np.array(timed))


async def _swap_under_load(address: str, root: Path) -> tuple[Answers, Timeline]:
    answers, timeline, stop = Answers(), Timeline(), asyncio.Event()
    async with grpc.aio.insecure_channel(address) as channel:
        callers = [asyncio.create_task(_call_on(channel, answers, stop)) for _ in range(CALLERS)]
        await asyncio.sleep(3)  # warms up caches and connections
        await _windows(address, root, timeline)
        stop.set()
        await asyncio.gather(*callers)
    return answers, timeline


async def _windows(address: str, root: Path, timeline: Timeline) -> None:
    versions = count(2)
    with grpc.insecure_channel(address) as channel:
        for _ in range(WINDOWS):
            began = time.monotonic()
            await asyncio.sleep(SWAPS / WINDOWS)
            between = time.monotonic()
            for _ in range(SWAPS // WINDOWS):
                await _swap(channel, root, next(versions))
            timeline.quiet.append((began, between))
            timeline.swapping.append((between, time.monotonic()))


async def _swap(channel: grpc.Channel, root: Path, version: int) -> None:
    """Publishes a version and waits until it serves, and for at least a second."""
    second = asyncio.create_task(asyncio.sleep(1))
    (root / "staged" / str(version)).rename(root / "swapped" / str(version))
    until = time.monotonic() + PATIENCE
    while (await asyncio.to_thread(states, channel, "swapped")).get(version) != ModelVersionStatus.AVAILABLE:
        if time.monotonic() > until:
            raise TimeoutError(f"version {version} is not served")
        await asyncio.sleep(0.05)
    await second


async def _call_on(channel: grpc.aio.Channel, answers: Answers, stop: asyncio.Event) -> None:
    predict: grpc.aio.UnaryUnaryMultiCallable[bytes, PredictResponse] = channel.unary_unary(
        PREDICT, response_deserializer=PredictResponse.FromString
    )
    request = predict_request("swapped")
    newest = 1
    while not stop.is_set():
        answers.calls += 1
        try:
            response = await predict(request, timeout=PATIENCE)
        except grpc.aio.AioRpcError as error:
            answers.failed.append(f"{error.code()}: {error.details()}")
            continue
        version = response.model_spec.version.value
        if to_array(response.outputs["y"]).item() != version or version < newest:
            answers.wrong.append(f"{response} after version {newest}")
        newest = version
        answers.versions.add(version)
        await asyncio.sleep(PAUSE)


def _p99(timed: np.ndarray, windows: Sequence[Window]) -> float:
    return float(np.percentile(np.concatenate(list(_within(timed, windows))), 99))


def _within(timed: np.ndarray, windows: Sequence[Window]) -> Iterator[np.ndarray]:
    for begin, end in windows:
        yield timed[(timed[:, 0] >= begin) & (timed[:, 0] < end), 1]


def _report(machine: Sequence[str], answers: Answers, quiet: float, swapping: float) -> str:
    return (
        "# A new version every second, under load\n\n"
        f"Written by `python -m scripts.swap_under_load`. {CALLERS} callers call one model, each {PAUSE * 1e3:.0f} ms "
        f"after its last answer, and another process calls a second model. In {WINDOWS} windows a new version of the "
        "first model is put into service every second; between them are equally long windows without new versions.\n\n"
        f"{' '.join(machine)}\n\n"
        "| | |\n| --- | ---: |\n"
        f"| versions that came into service | {len(answers.versions) - 1} |\n"
        f"| calls of the model that was swapped | {answers.calls} |\n"
        f"| failed calls | {len(answers.failed)} |\n"
        f"| calls answered wrongly, or by an older version than before | {len(answers.wrong)} |\n"
        f"| p99 of the other model, quiet | {quiet * 1e3:.2f} ms |\n"
        f"| p99 of the other model, while versions swap | {swapping * 1e3:.2f} ms |\n\n"
        f"That is {swapping / quiet:.2f} times its quiet value; the target is at most {LIMIT}, with no failed call "
        f"and no wrong answer.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
