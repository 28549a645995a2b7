"""Puts values that a model knows, such as the names of its categories, into generated inputs."""

from collections.abc import Mapping

import numpy as np

from headrace_batching.task import Array

Categories = Mapping[int | None, tuple[bytes | int, ...]]
"""The values that a model knows, for each position along axis 1 of an input; None stands for all positions."""


def fill(array: Array, categories: Categories, random: np.random.Generator, *, only: bool) -> None:
    """Replaces values of an input of strings or integers by values that the model knows.

    Args:
        array: The input, which is changed.
        categories: The values that the model knows.
        random: The source of random numbers.
        only: Whether all values are replaced, or half of them.
    """
    for position, known in categories.items():
        place = array if position is None or array.ndim < 2 else array[:, position : position + 1]
        chosen = np.array(known, array.dtype)[random.integers(len(known), size=place.shape)]
        replaced = random.random(place.shape) < (1 if only else 0.5)
        place[replaced] = chosen[replaced]
