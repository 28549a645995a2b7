"""Silero's voice detector, with its state kept by the server: fifty streams at once, each as if it ran alone."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import numpy as np

from headrace_protos.inference.grpc_service_pb2 import ModelInferRequest, ModelStreamInferResponse

from .served import SERVICE, Models, Skipped, infer_request

STREAMS = 50
CHUNKS = 100
RATE = 16_000
CHUNK, CONTEXT = 512, 64

_PACKAGE = """
import shutil, sys
import numpy as np
import silero_vad, torch
from pathlib import Path
from silero_vad import load_silero_vad

folder, rate, chunk = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
shutil.copy(Path(silero_vad.__file__).parent / "data" / "silero_vad.onnx", folder / "vad.onnx")
model = load_silero_vad(onnx=True)
answers = []
for stream in torch.from_numpy(np.load(folder / "audio.npy")):
    model.reset_states()
    answers.append([model(part.unsqueeze(0), rate).item() for part in stream.split(chunk)])
np.save(folder / "answers.npy", np.array(answers, np.float32))
"""

_STATE = """
[state.stateN]
input = "state"
shape = [2, 1, 128]
"""


def check(folder: Path, silero: Path | None) -> str:
    """Sends every stream's audio in pieces, all streams at once; compares with the package's answers for each alone.

    Args:
        folder: An empty folder.
        silero: A Python interpreter with the package silero-vad.

    Raises:
        Skipped: `silero` is not set.
        AssertionError: An answer differs.
    """
    if silero is None:
        raise Skipped("--silero names no Python in which silero-vad and onnxruntime are installed")
    audio = np.stack([_audio(number) for number in range(STREAMS)])
    np.save(folder / "audio.npy", audio)
    subprocess.run([silero, "-c", _PACKAGE, folder, str(RATE), str(CHUNK)], check=True, stdout=subprocess.DEVNULL)
    expected = np.load(folder / "answers.npy")
    models = Models(folder / "models")
    models.add("vad", toml=_STATE, file=folder / "vad.onnx")
    with models.served() as server:
        answers = asyncio.run(_answers(server.address, audio))
    worst = float(np.abs(answers - expected).max())
    assert worst < 1e-5, f"an answer differs by {worst}"
    spoken = float((expected > 0.5).mean())
    return f"{STREAMS} streams of {CHUNKS} pieces, {spoken:.0%} of them speech; largest difference {worst:.1e}"


def _audio(number: int) -> np.ndarray:
    """Some seconds of a vowel-like sound that comes and goes, in noise: float32 [CHUNKS * CHUNK]."""
    random = np.random.default_rng(number)
    time = np.arange(CHUNKS * CHUNK) / RATE
    pitch = random.uniform(90, 220) * (1 + 0.03 * np.sin(2 * np.pi * random.uniform(3, 6) * time))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = sum(np.sin(harmonic * phase) * np.exp(-(((harmonic * 130 - 600) / 500) ** 2)) for harmonic in range(1, 25))
    syllables = np.clip(np.sin(2 * np.pi * random.uniform(1, 4) * time + random.uniform(0, 6)), 0, 1)
    audio: np.ndarray = 0.2 * voice * syllables + 0.003 * random.standard_normal(len(time))
    return audio.astype(np.float32)


async def _answers(address: str, audio: np.ndarray) -> np.ndarray:
    async with grpc.aio.insecure_channel(address) as channel:
        streams = (_stream(channel, number + 1, stream) for number, stream in enumerate(audio))
        return np.array(await asyncio.gather(*streams), np.float32)


async def _stream(channel: grpc.aio.Channel, sequence: int, audio: np.ndarray) -> list[float]:
    call = channel.stream_stream(
        f"{SERVICE}ModelStreamInfer", ModelInferRequest.SerializeToString, ModelStreamInferResponse.FromString
    )
    found = []
    async for answer in call(_requests(sequence, audio), timeout=300):
        assert not answer.error_message, answer.error_message
        outputs = answer.infer_response
        names = [output.name for output in outputs.outputs]
        found.append(float(np.frombuffer(outputs.raw_output_contents[names.index("output")], np.float32)[0]))
    return found


async def _requests(sequence: int, audio: np.ndarray) -> AsyncIterator[ModelInferRequest]:
    """A request for each piece, which begins with the end of the one before it, as in the package."""
    rate = np.array(RATE, np.int64)
    before = np.zeros(CONTEXT, np.float32)
    for number in range(CHUNKS):
        piece = audio[number * CHUNK : (number + 1) * CHUNK]
        inputs = {"input": np.concatenate([before, piece])[np.newaxis], "sr": rate}
        ends = {"sequence_start": number == 0, "sequence_end": number == CHUNKS - 1}
        yield infer_request("vad", inputs, sequence_id=sequence, **ends)
        before = piece[-CONTEXT:]
