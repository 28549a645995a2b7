"""Padding: which tasks share a padded batch, what the model gets, and what each caller gets."""

import re
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
import pytest

from headrace_batching.batch import Batch
from headrace_batching.errors import BatchOutputError
from headrace_batching.options import Options
from headrace_batching.padding import Padding, as_value, default_limits, limits_of_step
from headrace_batching.task import Arrays, Piece, Task

INT64 = np.dtype(np.int64)

TEXTS = Padding(
    inputs={"ids": (0,), "mask": (0,)},
    values={"ids": as_value(9, INT64), "mask": as_value(0, INT64)},
    outputs={"tokens": (0, None)},
    told_apart=frozenset({"mask"}),
)


def text(*words: int, mask: Any = None) -> Arrays:
    ids = np.array([words], np.int64)
    return {"ids": ids, "mask": np.ones_like(ids) if mask is None else np.array([mask], np.int64)}


def batch_of(*inputs: Arrays, options: Options | None = None) -> Batch:
    tasks = [Task(each, lambda _: None, rows=1, key=TEXTS.key(each), padding=TEXTS) for each in inputs]
    return Batch([Piece(task, 0, 1) for task in tasks], options or Options())


def test_texts_of_about_the_same_length_share_a_batch_and_others_do_not() -> None:
    assert TEXTS.key(text(1, 2)) == TEXTS.key(text(1, 2, 3)) == TEXTS.key(text(*range(8)))
    assert TEXTS.key(text(*range(9))) != TEXTS.key(text(*range(8)))


def test_a_padded_task_never_shares_a_batch_with_one_that_is_not() -> None:
    eight = text(*range(8))
    assert TEXTS.key(eight) != TEXTS.key(text(*range(8), mask=[0] * 8))
    assert TEXTS.key({"ids": eight["ids"], "mask": eight["mask"][:, :1]}) == ((8,), (1,)), "the model decides"


def test_a_length_of_one_is_not_padded() -> None:
    """The model may broadcast this dimension, or squeeze it away."""
    assert TEXTS.key(text(1)) == ((1,), (1,))


@pytest.mark.parametrize("mask", [[0, 0, 0], [0, 0]])
def test_a_row_with_only_pad_values_is_not_padded(mask: list[int]) -> None:
    own = text(*range(len(mask)), mask=mask)
    assert TEXTS.key(own) == ((len(mask),), (len(mask),))


def test_arrays_without_elements_are_not_padded() -> None:
    assert TEXTS.key(text()) == ((0,), (0,))


def test_each_input_is_padded_with_its_own_value() -> None:
    joined = batch_of(text(1, 2), text(3, 4, 5, 6)).join(np.empty)
    assert joined["ids"].tolist() == [[1, 2, 9, 9], [3, 4, 5, 6]]
    assert joined["mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_rows_up_to_an_allowed_size_are_as_long_as_the_others() -> None:
    joined = batch_of(text(1, 2), text(3, 4, 5), options=Options(max_batch_size=4, allowed_batch_sizes=(4,)))
    assert joined.join(np.empty)["ids"].tolist() == [[1, 2, 9], [3, 4, 5], [3, 4, 5], [3, 4, 5]]


def test_outputs_are_cut_to_each_tasks_own_length() -> None:
    batch = batch_of(text(1, 2), text(3, 4, 5, 6))
    ids = batch.join(np.empty)["ids"]
    short, long = batch.split({"tokens": np.stack([ids, -ids], axis=-1), "first": ids[:, :1]}, Lock())
    assert short.outputs is not None
    assert long.outputs is not None
    assert short.outputs["tokens"].tolist() == [[[1, -1], [2, -2]]]
    assert long.outputs["tokens"].shape == (1, 4, 2)
    assert [task.outputs["first"].tolist() for task in (short, long) if task.outputs] == [[[1]], [[3]]]


def test_outputs_of_a_fixed_length_are_not_cut() -> None:
    batch = batch_of(text(1, 2), text(3, 4))
    whole = np.zeros((2, 7, 1))
    assert [task.outputs["tokens"].shape for task in batch.split({"tokens": whole}, Lock()) if task.outputs] == [
        (1, 7, 1),
        (1, 7, 1),
    ]


@pytest.mark.parametrize("shape", [(2, 5, 2), (2, 3, 2), (2,), (2, 4)])
def test_an_output_without_any_of_the_lengths_is_an_error(shape: tuple[int, ...]) -> None:
    said = f"Output tokens of a padded batch has the shape {list(shape)}, which does not have the lengths of the padded"
    with pytest.raises(BatchOutputError, match=re.escape(said)):
        batch_of(text(1, 2), text(3, 4, 5, 6)).split({"tokens": np.zeros(shape)}, Lock())


def test_two_lengths_are_padded_separately() -> None:
    own = Padding({"x": (0, 1)}, {"x": as_value(0.5, np.dtype(np.float32))}, {"y": (1,)})

    def task(height: int, width: int) -> Task:
        inputs = {"x": np.full((1, height, width), height, np.float32)}
        return Task(inputs, lambda _: None, rows=1, key=own.key(inputs), padding=own)

    batch = Batch([Piece(task(1, 3), 0, 1), Piece(task(2, 2), 0, 1)], Options())
    joined = batch.join(np.empty)["x"]
    assert joined.tolist() == [[[1, 1, 1], [0.5, 0.5, 0.5]], [[2, 2, 0.5], [2, 2, 0.5]]]
    first, second = batch.split({"y": joined[:, 0]}, Lock())
    assert [own.outputs["y"].shape for own in (first, second) if own.outputs] == [(1, 3), (1, 2)]


def test_at_most_a_fifth_of_a_long_batch_is_padding() -> None:
    limits = default_limits()
    assert limits[:9] == (8, 16, 24, 32, 40, 48, 56, 64, 80)
    assert all((upper - lower - 1) / upper < 0.2 for lower, upper in pairwise(limits[3:]))
    assert limits_of_step(64)[:3] == (64, 128, 192)
