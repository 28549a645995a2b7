"""A Python model for the check: splits texts into BERT's word pieces, with the vocabulary next to it."""

import unicodedata
from typing import Any

import numpy as np

TOKENS = 64

INPUTS = {"text": ("string", [None])}
OUTPUTS = {"ids": ("int64", [None, TOKENS]), "mask": ("int64", [None, TOKENS])}

LONGEST_WORD = 100

vocabulary: dict[str, int] = {}


def initialize(context: Any) -> None:
    """Reads the vocabulary."""
    lines = (context.folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    vocabulary.update((piece, number) for number, piece in enumerate(lines))


def predict(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The IDs of the pieces, and a mask of the real ones."""
    texts = inputs["text"]
    ids = np.zeros((len(texts), TOKENS), np.int64)
    mask = np.zeros((len(texts), TOKENS), np.int64)
    for row, text in enumerate(texts):
        pieces = [piece for word in words(text.decode()) for piece in pieces_of(word)][: TOKENS - 2]
        named = ["[CLS]", *pieces, "[SEP]"]
        ids[row, : len(named)] = [vocabulary[piece] for piece in named]
        mask[row, : len(named)] = 1
    return {"ids": ids, "mask": mask}


def words(text: str) -> list[str]:
    """Lower case without accents; punctuation and Chinese characters are each a word."""
    plain = (letter for letter in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(letter) != "Mn")
    return "".join(f" {letter} " if stands_alone(letter) else letter for letter in plain).split()


def stands_alone(letter: str) -> bool:
    """Whether the character is a whole word."""
    is_ascii_sign = letter.isascii() and letter.isprintable() and not letter.isalnum() and letter != " "
    is_chinese = "\u4e00" <= letter <= "\u9fff" or "\u3400" <= letter <= "\u4dbf"
    return is_ascii_sign or is_chinese or unicodedata.category(letter).startswith("P")


def pieces_of(word: str) -> list[str]:
    """The longest pieces in the vocabulary, from the left."""
    pieces: list[str] = []
    start = 0
    while start < len(word):
        begin = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if begin + word[start:end] in vocabulary), None)
        if end is None or len(word) > LONGEST_WORD:
            return ["[UNK]"]
        pieces.append(begin + word[start:end])
        start = end
    return pieces
