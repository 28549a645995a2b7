"""Serves models/digits, sends every held-out image as a separate call, and shows the answers and the batches.

On a terminal, a server with a live page follows.
"""

import asyncio
import math
import os
import re
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from headrace_client import AsyncClient, ServerError

MODEL = Path(__file__).resolve().parents[1] / "models" / "digits"
BATCHING = MODEL / "batching.pbtxt"
IN_FLIGHT = 64
PATIENCE = 30.0
LEAST_ACCURACY = 0.97
LAST_LINES = 20

SHADES = " ░▒▓█"
PICTURES, PER_ROW = 8, 4
GAP = "   "
BAR = 40

SERVED = re.compile(r"served digits:\S+ \S+: \d+ requests, (\d+) rows in (\d+) batches, mean (\S+) rows \((.+)\)")


class DemoError(Exception):
    """A result of the demo is wrong; the text says which one."""


@dataclass(frozen=True)
class Answers:
    """The model's answers to the images, in order: labels int64 [N], certainty float32 [N]; and the time taken."""

    labels: NDArray[np.int64]
    certainty: NDArray[np.float32]
    seconds: float


@dataclass(frozen=True)
class Server:
    """A running `headrace serve`, its port, and the task that collects its output until it exits."""

    process: Process
    port: int
    output: asyncio.Task[tuple[bytes, bytes]]

    @classmethod
    async def start(cls) -> Self:
        """Starts the `headrace` command of this Python's environment."""
        port = free_port()
        model = ["--model_name=digits", f"--model_base_path={MODEL}", f"--batching_parameters_file={BATCHING}"]
        command = ["headrace", "serve", f"--port={port}", *model]
        print("$", *command, flush=True)
        program = Path(sys.executable).with_name(command[0])
        process = await asyncio.create_subprocess_exec(program, *command[1:], stdout=PIPE, stderr=STDOUT)
        return cls(process, port, asyncio.create_task(process.communicate()))

    async def listening(self) -> None:
        """Waits until the port is open, and so the model is ready; raises DemoError if that does not happen."""
        deadline = time.monotonic() + PATIENCE
        while not await is_open(self.port):
            if self.process.returncode is not None:
                raise DemoError(f"the server ended with status {self.process.returncode} before it listened")
            if time.monotonic() > deadline:
                raise DemoError(f"the server does not listen after {PATIENCE:.0f} s")
            await asyncio.sleep(0.05)

    async def stop(self) -> list[str]:
        """Sends SIGTERM, and kills the server if it takes too long; returns the lines that it printed."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        _, late = await asyncio.wait({self.output}, timeout=PATIENCE)
        if late:
            self.process.kill()
        output, _ = await self.output
        return output.decode(errors="replace").splitlines()


def free_port() -> int:
    """Returns a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def is_open(port: int) -> bool:
    """Returns whether something listens on the port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def classify(client: AsyncClient, images: NDArray[np.uint8]) -> Answers:
    """Sends all images, uint8 [N, 8, 8], each in a call of its own, with IN_FLIGHT calls at a time."""
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def ask(pixels: NDArray[np.float32]) -> tuple[np.int64, np.float32]:
        async with slots:
            answer = await client.predict("digits", {"image": pixels}, timeout=PATIENCE)
        return answer["label"][0], answer["probabilities"].max()

    rows = images.reshape(-1, 1, 64).astype(np.float32)
    start = time.perf_counter()
    answers = await asyncio.gather(*map(ask, rows))
    seconds = time.perf_counter() - start
    labels, certainty = zip(*answers, strict=True)
    return Answers(np.array(labels), np.array(certainty), seconds)


def chosen(labels: NDArray[np.int64], truth: NDArray[np.uint8]) -> list[int]:
    """Returns the images to show: one of each of the first digits that were recognised, then two that were not."""
    wrong = np.flatnonzero(labels != truth)[:2].tolist()
    right = np.flatnonzero(labels == truth)
    _, first = np.unique(truth[right], return_index=True)
    return [*right[first][: PICTURES - len(wrong)].tolist(), *wrong]


def picture(image: NDArray[np.uint8]) -> list[str]:
    """Draws one image, uint8 [8, 8] of 0 to 16, as eight lines of sixteen characters."""
    shades = (image.astype(int) * (len(SHADES) - 1) + 8) // 16
    return ["".join(SHADES[shade] * 2 for shade in row) for row in shades]


def caption(label: int, truth: int, certainty: float) -> str:
    """Formats what the model recognised and whether it was right, in sixteen characters, in colour on a terminal."""
    text = f"{label}, {certainty:.0%}" if label == truth else f"{label}, but is {truth}"
    centred = f"{text:^16}"
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return centred
    return f"\033[{32 if label == truth else 31}m{centred}\033[0m"


def gallery(images: NDArray[np.uint8], truth: NDArray[np.uint8], answers: Answers) -> Iterator[str]:
    """Returns the lines of a few pictures side by side, each above its caption."""
    shown = chosen(answers.labels, truth)
    for start in range(0, len(shown), PER_ROW):
        row = shown[start : start + PER_ROW]
        columns = [
            [*picture(images[i]), caption(int(answers.labels[i]), int(truth[i]), float(answers.certainty[i]))]
            for i in row
        ]
        yield ""
        yield from (GAP.join(cells) for cells in zip(*columns, strict=True))


def histogram(lines: list[str], images: int) -> Iterator[str]:
    """Returns a bar for each range of batch sizes in the log; raises DemoError if its totals differ from ours."""
    served = next(filter(None, map(SERVED.search, lines)), None)
    if served is None:
        raise DemoError("the server did not log its batches")
    rows, batches, mean, ranges = served.groups()
    if int(rows) != images:
        raise DemoError(f"the server counted {rows} images, not {images}")
    counts = {size: int(count) for size, count in (item.split(": ") for item in ranges.split(", "))}
    yield f"The server made {batches} batches of them, {mean} images each on average:"
    for size, count in counts.items():
        yield f"{size:>9} | {'█' * math.ceil(BAR * count / max(counts.values()))} {count}"


async def serve_and_ask(server: Server, images: NDArray[np.uint8]) -> Answers:
    """Waits for the server and sends it all images."""
    await server.listening()
    async with AsyncClient(f"127.0.0.1:{server.port}") as client:
        for version in await client.status("digits", timeout=PATIENCE):
            print(f"digits version {version.version} is {version.state}", flush=True)
        return await classify(client, images)


def show(images: NDArray[np.uint8], truth: NDArray[np.uint8], answers: Answers) -> None:
    """Prints a few of the images, how many were recognised, and how fast; raises DemoError if too few were."""
    print(*gallery(images, truth, answers), "", sep="\n")
    right, total = int((answers.labels == truth).sum()), len(truth)
    print(f"{right} of {total} images that the model was not trained on are recognised correctly: {right / total:.1%}")
    print(f"{total} calls of one image, {IN_FLIGHT} at a time: {total / answers.seconds:,.0f} calls/s")
    if right < LEAST_ACCURACY * total:
        raise DemoError(f"fewer than {LEAST_ACCURACY:.0%} are recognised")


async def run(server: Server) -> None:
    """Runs the demo on a started server; raises DemoError or ServerError if anything is wrong."""
    with np.load(MODEL / "held_out.npz") as held_out:
        images, truth = held_out["images"], held_out["labels"]
    show(images, truth, await serve_and_ask(server, images))
    print(*histogram(await server.stop(), len(images)), sep="\n")
    if server.process.returncode != 0:
        raise DemoError(f"the server ended with status {server.process.returncode}")


async def main() -> None:
    """Runs the demo; on failure, prints the server's last log lines and the error, and exits with status 1."""
    server = await Server.start()
    try:
        await run(server)
    except (DemoError, ServerError) as error:
        lines = await server.stop()
        sys.exit("\n".join(["", *lines[-LAST_LINES:], f"demo: {error}"]))
    finally:
        await server.stop()


def go_on() -> None:
    """Becomes a server with a live page, and prints how to use it."""
    port, rest = (usual if is_free(usual) else free_port() for usual in (8500, 8501))
    headrace = Path(sys.executable).with_name("headrace")
    shown = headrace.relative_to(Path.cwd()) if headrace.is_relative_to(Path.cwd()) else headrace
    print(
        "",
        "The model is now served until you press Ctrl-C. To watch the batches form, open",
        "",
        f"    http://localhost:{rest}/",
        "",
        "in a browser, and put load on the server from another terminal:",
        "",
        f"    {shown} bench localhost:{port} --model=digits --concurrency=1,4,16,64",
        "",
        sep="\n",
        flush=True,
    )
    hosts = ["--host=127.0.0.1", "--rest_api_host=127.0.0.1"]
    model = ["--model_name=digits", f"--model_base_path={MODEL}", f"--batching_parameters_file={BATCHING}"]
    flags = [f"--port={port}", f"--rest_api_port={rest}", "--log_level=warning"]
    os.execv(headrace, [str(headrace), "serve", *hosts, *model, *flags])


def is_free(port: int) -> bool:
    """Whether a port can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    asyncio.run(main())
    if sys.stdin.isatty() and sys.stdout.isatty():
        go_on()
