"""Serves a MiniLM encoder to 64 callers with texts of 3 to 60 tokens: python -m scripts.texts [MODEL.SAFETENSORS]."""

import asyncio
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from headrace_batching.task import Array, Arrays
from headrace_client import AsyncClient
from scripts.bench.machine import description
from scripts.bench.process import running
from scripts.texts.model import random_weights, read_weights, write_model

CALLERS = 64
TEXTS = 384
SHORTEST, LONGEST = 3, 60

WAYS = {
    "not padded": "pad_lengths = false",
    "padded": "",
    "padded, all lengths together": "length_step = 64",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one way of serving.

    Attributes:
        way: The description of this way.
        rate: The texts per second.
        cpu: The server's CPU time per text, in milliseconds.
        batch: The mean number of texts per batch.
        differs: The largest difference from the bare model, relative to the largest value.
    """

    way: str
    rate: float
    cpu: float
    batch: float
    differs: float

    def __str__(self) -> str:
        return f"| {self.way} | {self.rate:.1f} | {self.cpu:.1f} | {self.batch:.1f} | {self.differs:.1e} |"


def texts(count: int) -> list[Arrays]:
    """Random texts, one row each, with uniformly distributed lengths."""
    random = np.random.default_rng(0)
    made: list[Arrays] = []
    for length in random.integers(SHORTEST, LONGEST + 1, count):
        ids = random.integers(1000, 30000, (1, int(length)))
        made.append({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})
    return made


async def call_all(address: str, sent: Sequence[Arrays]) -> list[Array]:
    """The answers to all texts, with this many calls in flight."""
    answers: list[Array] = [np.empty(0)] * len(sent)
    left = iter(enumerate(sent))

    async with AsyncClient(address, timeout=600) as client:

        async def caller() -> None:
            for number, inputs in left:
                outputs = await client.predict("minilm", inputs, outputs=["sentence_embedding"])
                answers[number] = outputs["sentence_embedding"]

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return answers


def measure(folder: Path, way: str, sent: Sequence[Arrays], expected: Sequence[Array]) -> Outcome:
    """Measures one way of serving the model."""
    (folder / "minilm" / "model.toml").write_text(f"[batching]\n{WAYS[way]}\n")
    command = [str(Path(sys.executable).with_name("headrace")), "serve", str(folder / "minilm")]
    with running(lambda port: [*command, f"--port={port}"], folder / "log", patience=300) as server:
        asyncio.run(call_all(server.address, sent[:CALLERS]))
        began, cpu = time.monotonic(), server.cpu_seconds()
        answers = asyncio.run(call_all(server.address, sent))
        seconds, cpu = time.monotonic() - began, server.cpu_seconds() - cpu
    largest = max(float(np.abs(array).max()) for array in expected)
    differs = max(float(np.abs(a - b).max()) for a, b in zip(answers, expected, strict=True)) / largest
    mean = re.findall(r"served minilm:1 serving_default: .* mean ([\d.]+) rows", (folder / "log").read_text())
    return Outcome(way, len(sent) / seconds, cpu / len(sent) * 1e3, float(mean[-1]), differs)


def bare(model: Path, sent: Sequence[Arrays]) -> list[Array]:
    """The answers of the model alone."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return [session.run(["sentence_embedding"], dict(inputs))[0] for inputs in sent]


def main(arguments: Sequence[str]) -> None:
    """Measures all ways, and writes the report."""
    weights = read_weights(Path(arguments[0])) if arguments else random_weights()
    with tempfile.TemporaryDirectory() as name:
        folder, sent = Path(name), texts(TEXTS)
        write_model(folder / "minilm" / "1" / "model.onnx", weights)
        expected = bare(folder / "minilm" / "1" / "model.onnx", sent)
        outcomes = [measure(folder, way, sent, expected) for way in WAYS]
    lines = [
        "| texts of different lengths are | texts/s | server CPU a text, ms | texts per batch | largest difference |",
        "|---|---:|---:|---:|---:|",
        *map(str, outcomes),
    ]
    print(description(), *lines, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
