"""Generates inputs for a model, given only its signature."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import product
from math import prod
from typing import Any

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_server.backends.independence.categories import Categories, fill
from headrace_server.backends.independence.examples import Feature, serialized
from headrace_server.backends.independence.sizes import ROWS, elements, inner_sizes
from headrace_server.backends.signature import TensorSpec


class Rows(Enum):
    """The kind of values in a generated row.

    Generated integers of more than two bytes stay small unless `Recipe.large` is set: they may be indices, or numbers
    of steps.

    A model may test whether *any* value of a batch is above a threshold such as 1. In a batch of the kind UNIT, no
    floating-point number is above 1; in one of the kind HUNDREDS, all are. Most batches of the kind USUAL have values
    on both sides, so the test has the same result for each of them.
    """

    USUAL = "other values"
    HUGE = "huge values"
    INFINITE = "infinite values"
    NAN = "NaN"
    SMALL = "zeros and tiny values"
    ODD = "NaN, infinite and huge values"
    HIGHEST = "the largest values"
    LOWEST = "the largest negative values"
    ZEROS = "zeros"
    UNIT = "numbers from 0 to 1, and the largest strings and integers"
    HUNDREDS = "numbers in the hundreds, and the smallest strings and integers"
    SIGNED = "numbers in the hundreds of both signs, and the smallest strings and integers"


_SMALLEST = (Rows.HUNDREDS, Rows.SIGNED)
_ONE_SIDED = (Rows.UNIT, *_SMALLEST)


class Reals(Enum):
    """How the usual floating-point numbers of a row are drawn."""

    NORMAL = "normal"
    SMALL = "about 0.01"
    SCALED = "of magnitudes from 0.01 to 10,000"
    POSITIVE = "between 0 and 1"


_WORDS = (b"one", b"two", b"three", b"a few words more", b"7")

EXTREME_WORDS = (b"", "ÉTÉ".encode())
"""The smallest and the largest string, besides usual words."""

_UNLIMITED = 7  # the largest integer of UNIT rows if it needs no relation to the number of rows

_LARGE = 10**13
"""The largest integer of UNIT rows if it may have any size; a time in milliseconds is smaller."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How inputs are generated.

    Attributes:
        size: The first of the inner sizes. Never 1, which broadcasts, nor one of the tested numbers of rows.
        distinct: Whether dimensions of different names have different sizes.
        least: The smallest integer.
        most: All integers are below this; None stands for the number of rows, so that integers may be indices into
            another input's rows.
        text: The strings to choose from.
        reals: How floating-point numbers are drawn.
        examples: Features of the tf.Examples that strings hold; empty for other strings.
        shuffled: Whether the values of a real request's row are put into another order.
        limit: The value of very large numbers; None for numbers whose squares are finite.
        categories: For each input, by alias, the values that the model knows; empty if it knows none.
        known: Whether these inputs have no other values.
        large: Whether the largest integers may have any size, so that they are no indices.
    """

    size: int = 5
    distinct: bool = True
    least: int = 0
    most: int | None = None
    text: tuple[bytes, ...] = _WORDS
    reals: Reals = Reals.NORMAL
    examples: tuple[Feature, ...] = ()
    shuffled: bool = False
    limit: float | None = None
    categories: Mapping[str, Categories] = field(default_factory=dict)
    known: bool = False
    large: bool = False


MAX_ROW_ELEMENTS = 1 << 20
"""The maximum number of elements in a row of all inputs; four dimensions of 224 alone would have 2.5 billion."""

_SIZES = ((5, True), (8, False), (32, False), (64, False), (224, False), (128, False), (16, False))
_RANGES: tuple[tuple[int, int | None], ...] = ((0, None), (0, 2), (1, 3), (1, 2), (0, 1))
_TEXTS = (_WORDS, (b"1", b"2", b"3.5", b"40"), (b"",))


def recipes(inputs: Mapping[str, TensorSpec], categories: Mapping[str, Categories]) -> Iterator[Recipe]:
    """Recipes to try one after the other until the model accepts one, the most likely first.

    Args:
        inputs: The inputs by alias.
        categories: For some of them, the values that the model knows; it may refuse all other ones.
    """
    specs = inputs.values()
    sizes = _SIZES if any(None in spec.shape[1:] for spec in specs) else _SIZES[:1]
    ranges = _RANGES if any(spec.array_dtype.kind in "iu" for spec in specs) else _RANGES[:1]
    texts = _TEXTS if any(spec.array_dtype.kind == "O" for spec in specs) else _TEXTS[:1]
    only = (False, True) if categories else (False,)
    for (size, distinct), (least, most), text, known in product(sizes, ranges, texts, only):
        recipe = Recipe(size, distinct, least, most, text, categories=categories, known=known)
        if size == sizes[0][0] or elements(inputs, size, distinct=distinct) <= MAX_ROW_ELEMENTS:
            yield recipe


class Maker:
    """Makes rows for all inputs of one signature.

    Args:
        inputs: The inputs by alias; the first axis of each is the batch axis.
        recipe: The way in which the values are drawn.
        random: The source of random numbers.
        records: Real requests, by alias, whose values are used instead of generated ones; may be empty.
    """

    def __init__(
        self,
        inputs: Mapping[str, TensorSpec],
        recipe: Recipe,
        random: np.random.Generator,
        records: Sequence[Arrays] = (),
    ) -> None:
        self._inputs = inputs
        self._recipe = recipe
        self._random = random
        self._records = records
        self._sizes = inner_sizes(inputs, recipe.size, distinct=recipe.distinct)

    def rows(self, count: int, kind: Rows = Rows.USUAL, *, pointing: bool = False) -> Arrays:
        """Makes an array for each input.

        Args:
            count: The number of rows.
            kind: The kind of values in the rows.
            pointing: Whether the first integer of each row is the number of the next row. If such integers are indices
                into the rows of an input, each row then refers to another row.
        """
        record = self._records[int(self._random.integers(len(self._records)))] if self._records else None
        if record:
            return {alias: self._from_record(record[alias], count, kind) for alias in self._inputs}
        made = {
            alias: self._made(spec, self._shape(alias, count), kind, pointing) for alias, spec in self._inputs.items()
        }
        for alias, categories in self._recipe.categories.items():
            if self._recipe.known or kind not in _ONE_SIDED:
                fill(made[alias], categories, self._random, only=self._recipe.known)
        return made

    def _shape(self, alias: str, count: int) -> tuple[int, ...]:
        return (count, *(count if size is ROWS else size for size in self._sizes[alias]))

    def _made(self, spec: TensorSpec, shape: tuple[int, ...], kind: Rows, pointing: bool) -> Array:
        dtype = spec.array_dtype
        if dtype.kind == "O":
            return self._text(shape, kind)
        if dtype.kind == "b":
            return self._random.integers(kind is Rows.UNIT, 1 if kind in _SMALLEST else 2, size=shape).astype(dtype)
        if dtype.kind in "iu" and kind in _ONE_SIDED:
            return self._ends(shape, dtype, kind)
        if dtype.kind in "iu":
            return self._whole(shape, dtype, pointing)
        return self._real(shape, dtype, kind)

    def _text(self, shape: tuple[int, ...], kind: Rows) -> Array:
        if self._recipe.examples:
            return self._examples(shape, kind)
        words = np.array(self._recipe.text, object)
        chosen: Array = words[self._random.integers(len(words), size=shape)]
        if kind in _ONE_SIDED:
            chosen[...] = max(words) if kind is Rows.UNIT else min(words)
        return chosen * 50 if kind is Rows.HUGE else chosen

    def _examples(self, shape: tuple[int, ...], kind: Rows) -> Array:
        def reals(count: int) -> list[float]:
            numbers: list[float] = self._real((1, count), np.dtype(np.float32), kind)[0].tolist()
            return numbers

        made = [serialized(self._recipe.examples, reals, self._random) for _ in range(np.prod(shape, dtype=int))]
        return np.array(made, object).reshape(shape)

    def _whole(self, shape: tuple[int, ...], dtype: np.dtype[Any], pointing: bool) -> Array:
        recipe, rows = self._recipe, shape[0]
        most = max(recipe.least + 1, rows if recipe.most is None else recipe.most)
        if dtype.itemsize == 1 and recipe.most is None:
            most = 128  # integers of one byte may be pixels or quantized numbers
        numbers = self._random.integers(recipe.least, most, size=shape)
        if pointing and most <= rows:
            flat = numbers.reshape(rows, -1)
            flat[:, :1] = recipe.least + (np.arange(rows)[:, np.newaxis] + 1) % (most - recipe.least)
        return numbers.astype(dtype)

    def _ends(self, shape: tuple[int, ...], dtype: np.dtype[Any], kind: Rows) -> Array:
        """For UNIT rows, the largest integer; for other ones, the two smallest integers.

        The first of these rows is not all zeros: for zeros, a model might give the same answer in every batch.
        """
        recipe, limits = self._recipe, np.iinfo(dtype)
        if dtype.itemsize <= 2 and recipe.most is None:  # indices, and numbers of steps, have more bytes
            least, highest = int(limits.min), int(limits.max)
        else:
            least = max(recipe.least, int(limits.min))
            highest = _UNLIMITED if recipe.most is None else max(least, recipe.most - 1)
            highest = min(_LARGE, int(limits.max)) if recipe.large else highest
        if kind is Rows.UNIT:
            return np.full(shape, highest, dtype)
        span = max(1, min(2, highest - least))
        numbers = least + self._random.integers(span, size=shape)
        numbers.reshape(shape[0], -1)[::2, :1] = least or span - 1
        numbers.reshape(shape[0], -1)[1::2, :1] = least
        return numbers.astype(dtype)

    def _real(self, shape: tuple[int, ...], dtype: np.dtype[Any], kind: Rows) -> Array:
        usual = self._usual(shape)
        huge = _huge(dtype) if self._recipe.limit is None else min(self._recipe.limit, _largest(dtype))
        others = {
            Rows.HIGHEST: (huge,),
            Rows.LOWEST: (-huge,),
            Rows.ZEROS: (0.0,),
            Rows.HUGE: (huge, -huge, 3e4, -3e4),
            Rows.INFINITE: (np.inf, -np.inf, huge),
            Rows.NAN: (np.nan,),
            Rows.SMALL: (0.0, -0.0, 1e-4, -1e-4),
            Rows.ODD: (np.nan, np.inf, -np.inf, huge, -huge),
        }
        if kind is Rows.UNIT:
            usual = self._random.uniform(0.05, 1, shape)
        elif kind in _SMALLEST:  # whole numbers, unlike those of UNIT rows
            usual = np.rint(2 + 255 * np.abs(usual)) * (_signs(shape) if kind is Rows.SIGNED else 1)
        elif kind in others:
            picked = self._random.choice(others[kind], size=shape)
            usual = picked if kind is not Rows.INFINITE else np.where(self._random.random(shape) < 0.5, picked, usual)
            usual.reshape(shape[0], -1)[:, :1] = others[kind][0]  # so that the value is never left out by chance
        return usual.astype(dtype)

    def _usual(self, shape: tuple[int, ...]) -> Array:
        random = self._random
        if self._recipe.reals is Reals.POSITIVE:
            return random.uniform(0.05, 1, shape)
        normal = random.standard_normal(shape)
        if self._recipe.reals is Reals.SMALL:
            return normal * 0.01
        return normal * 10 ** random.uniform(-2, 4, shape) if self._recipe.reals is Reals.SCALED else normal

    def _from_record(self, values: Array, count: int, kind: Rows) -> Array:
        """Rows of a real request, or of its values in another order."""
        if kind is not Rows.USUAL and values.dtype.kind not in "OSUbiu":
            return self._real((count, *values.shape[1:]), values.dtype, kind)
        if kind in _ONE_SIDED and values.dtype.kind in "biu" and values.size:
            return np.full((count, *values.shape[1:]), values.max() if kind is Rows.UNIT else values.min())
        rows: Array = values[self._random.integers(len(values), size=count)]
        if not self._recipe.shuffled:
            return rows
        flat = rows.reshape(count, -1)
        return np.stack([self._random.permutation(row) for row in flat]).reshape(rows.shape)


def _signs(shape: tuple[int, ...]) -> Array:
    """Signs that alternate within a row; those of a row are opposite to those of the row that is two rows later."""
    inner = np.arange(prod(shape[1:])).reshape(1, *shape[1:])
    turns: Array = np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)) // 2 + inner
    return np.where(turns % 2, -1.0, 1.0).reshape(shape)


def _huge(dtype: np.dtype[Any]) -> float:
    """A very large number whose square is finite."""
    return {2: 200.0, 4: 1e18}.get(dtype.itemsize, 1e100)


def _largest(dtype: np.dtype[Any]) -> float:
    """Approximately the largest number of a dtype; numpy does not know that of bfloat16."""
    return 3e38 if dtype.kind == "V" else float(np.finfo(dtype).max)
