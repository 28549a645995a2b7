"""Calls of more models than fit into memory, and how a simulated cache would handle them."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np


def zipf(names: Sequence[str], count: int, *, seed: int, exponent: float = 1.1) -> list[str]:
    """Calls of many models, a few of them often and most of them seldom; every run has the same calls."""
    weights = 1 / np.arange(1, len(names) + 1) ** exponent
    chosen = np.random.default_rng(seed).choice(len(names), count, p=weights / weights.sum())
    return [names[index] for index in chosen]


def simulated_misses(sequence: Sequence[str], capacity: int, warm: Sequence[str] = ()) -> int:
    """How often a cache that drops the least recently used item misses.

    Args:
        sequence: The requested items.
        capacity: The number of items that it holds.
        warm: The initial items of the cache, the least recently used first.
    """
    cached = OrderedDict.fromkeys(warm)
    misses = 0
    for name in sequence:
        misses += name not in cached
        cached[name] = None
        cached.move_to_end(name)
        if len(cached) > capacity:
            cached.popitem(last=False)
    return misses
