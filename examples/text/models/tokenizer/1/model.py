"""A tokenizer: counts how often each word of the vocabulary, which `train.py` writes, occurs in each text."""

import re
from pathlib import Path

import numpy as np

WORDS = Path(__file__).with_name("words.txt").read_text().split()
COLUMNS = {word: column for column, word in enumerate(WORDS)}
UNKNOWN = 0  # the first line stands for all other words

INPUTS = {"text": ("string", [None])}
OUTPUTS = {"counts": ("float32", [None, len(WORDS)])}


def predict(inputs):
    """Called with the rows of one or several requests; strings are bytes."""
    counts = np.zeros((len(inputs["text"]), len(WORDS)), np.float32)
    for row, text in enumerate(inputs["text"]):
        for word in re.findall(r"\w+", text.decode().lower()):
            counts[row, COLUMNS.get(word, UNKNOWN)] += 1
    return {"counts": counts}
