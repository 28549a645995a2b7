"""Trains a classifier of sentences about the weather or about food, and writes the missing files into models/."""

import re
import runpy
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.linear_model import LogisticRegression

MODELS = Path(__file__).parent / "models"
TOPICS = {
    "weather": "rain snow wind storm cloud sun frost fog ice thunder".split(),
    "food": "bread soup cheese rice apple salt butter cake bean fish".split(),
}
FRAMES = ["we had {} today", "there was much {} in the north", "all of them like {}", "no {} was left"]

texts = [frame.format(word) for words in TOPICS.values() for word in words for frame in FRAMES]
topics = [topic for topic, words in TOPICS.items() for _ in words for _ in FRAMES]

vocabulary = sorted({word for text in texts for word in re.findall(r"\w+", text)})
(MODELS / "tokenizer" / "1" / "words.txt").write_text("\n".join(["?", *vocabulary]) + "\n")

# The server's own tokenizer, so that the words are counted in the same way when the model is trained and served.
tokenizer = runpy.run_path(str(MODELS / "tokenizer" / "1" / "model.py"))
counts = tokenizer["predict"]({"text": np.array([text.encode() for text in texts], object)})["counts"]
classifier = LogisticRegression().fit(counts, topics)

# Without `zipmap`, the probabilities are a tensor with a column for each topic.
types = [("counts", FloatTensorType([None, counts.shape[1]]))]
graph = to_onnx(classifier, initial_types=types, options={"zipmap": False})
for folder in ("classifier/1", "topic/1"):
    (MODELS / folder).mkdir(parents=True, exist_ok=True)
(MODELS / "classifier" / "1" / "model.onnx").write_bytes(graph.SerializeToString())
