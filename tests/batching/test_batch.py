"""Joining tasks into a batch, padding it, and splitting it again."""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from headrace_batching import BatchOutputError, InvalidTask, Options, Task, shape_key
from headrace_batching.batch import Batch, deliver, rows_of
from headrace_batching.task import Array, Arrays, Piece

OPTIONS = Options(max_batch_size=8)
PADDED = Options(max_batch_size=8, allowed_batch_sizes=(4, 8))
VARIABLE = Options(max_batch_size=8, pad_variable_length_inputs=True)


def numbers(*shape: int, start: int = 0) -> Array:
    return np.arange(start, start + np.prod(shape), dtype=np.float32).reshape(shape)


def a_task(x: Array, **others: Array) -> Task:
    return Task({"x": x, **others}, lambda _: None, rows=len(x))


def a_piece(task: Task) -> Piece:
    return Piece(task, 0, task.rows)


def a_batch(*arrays: Array, options: Options = OPTIONS) -> Batch:
    return Batch([a_piece(a_task(array)) for array in arrays], options)


def dirty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array that contains old values from an earlier use."""
    return np.full(shape, None if dtype.hasobject else np.nan, dtype)


class TestRows:
    def test_is_the_length_of_axis_0(self) -> None:
        assert rows_of({"a": numbers(3, 2), "b": numbers(3)}) == 3

    @pytest.mark.parametrize(
        ("inputs", "text"),
        [
            ({}, "Batching Run() must have at least one input tensor"),
            ({"a": numbers()}, "Batching Run() input tensors must have at least one dimension"),
            ({"a": numbers(2), "b": numbers(3)}, "Batching Run() input tensors must have equal 0th-dimension size"),
        ],
    )
    def test_must_be_there_and_equal(self, inputs: Arrays, text: str) -> None:
        with pytest.raises(InvalidTask) as refusal:
            rows_of(inputs)

        assert str(refusal.value) == text


class TestShapeKey:
    def test_ignores_rows_and_the_order_of_names(self) -> None:
        first = {"a": numbers(1, 2), "b": numbers(1)}
        second = {"b": numbers(5), "a": numbers(5, 2)}

        assert shape_key(first) == shape_key(second)

    @pytest.mark.parametrize(
        "other",
        [
            {"y": numbers(1, 2)},
            {"x": numbers(1, 3)},
            {"x": numbers(1, 2, 1)},
            {"x": numbers(1, 2).astype(np.float64)},
            {"x": numbers(1, 2).astype(">f4")},
            {"x": numbers(1, 2), "y": numbers(1)},
        ],
    )
    def test_differs_by_names_dtypes_and_inner_shapes(self, other: Arrays) -> None:
        assert shape_key({"x": numbers(1, 2)}) != shape_key(other)

    def test_tells_dtypes_apart_that_numpy_spells_alike(self) -> None:
        assert shape_key({"x": np.ones(1, ml_dtypes.float8_e4m3fn)}) != shape_key({"x": np.ones(1, ml_dtypes.int4)})

    def test_the_rank_replaces_the_shape_when_padding(self) -> None:
        assert shape_key({"x": numbers(1, 2)}, pad=True) == shape_key({"x": numbers(3, 9)}, pad=True)
        assert shape_key({"x": numbers(1, 2)}, pad=True) != shape_key({"x": numbers(1, 2, 1)}, pad=True)

    def test_an_empty_array_has_nothing_to_be_padded_with(self) -> None:
        assert shape_key({"x": numbers(1, 0)}, pad=True) != shape_key({"x": numbers(1, 2)}, pad=True)
        assert shape_key({"x": numbers(1, 0, 3)}, pad=True) != shape_key({"x": numbers(1, 3, 0)}, pad=True)


class TestJoin:
    def test_a_task_alone_is_not_copied(self) -> None:
        task = a_task(numbers(2, 3))

        joined = Batch([a_piece(task)], OPTIONS).join(np.empty)

        assert joined is task.inputs

    def test_a_piece_alone_is_a_view(self) -> None:
        task = a_task(numbers(5, 3))

        joined = Batch([Piece(task, 1, 4)], OPTIONS).join(np.empty)["x"]

        np.testing.assert_array_equal(joined, task.inputs["x"][1:4])
        assert np.shares_memory(joined, task.inputs["x"])

    def test_several_are_copied_once_into_an_array_of_the_padded_shape(self) -> None:
        made: list[Array] = []

        def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
            made.append(np.empty(shape, dtype))
            return made[-1]

        joined = a_batch(numbers(2, 3), numbers(1, 3, start=6), options=PADDED).join(empty)

        assert [(array.shape, array.dtype) for array in made] == [((4, 3), np.dtype(np.float32))]
        assert joined["x"] is made[0]
        np.testing.assert_array_equal(joined["x"][:3], numbers(3, 3))

    def test_every_input_is_joined(self) -> None:
        tasks = [a_task(numbers(1, 2), y=numbers(1)), a_task(numbers(2, 2, start=2), y=numbers(2, start=1))]

        joined = Batch([a_piece(task) for task in tasks], OPTIONS).join(np.empty)

        np.testing.assert_array_equal(joined["x"], numbers(3, 2))
        np.testing.assert_array_equal(joined["y"], numbers(3))

    def test_strings(self) -> None:
        first, second = np.array([b"a", b""], object), np.array([b"a longer one"], object)

        joined = a_batch(first, second, options=PADDED).join(dirty)["x"]

        assert joined.dtype == object
        assert joined.tolist() == [b"a", b"", b"a longer one", b"a longer one"]


class TestPadding:
    def test_repeats_the_last_tasks_first_row(self) -> None:
        batch = a_batch(numbers(3, 2), numbers(2, 2, start=50), options=PADDED)

        joined = batch.join(dirty)["x"]

        assert (batch.rows, batch.padded) == (5, 8)
        np.testing.assert_array_equal(joined[5:], [[50, 51]] * 3)

    def test_a_task_alone_is_padded_too(self) -> None:
        joined = a_batch(numbers(3, 2), options=PADDED).join(dirty)["x"]

        np.testing.assert_array_equal(joined[3:], [[0, 1]])

    def test_repeats_a_row_that_exists_when_the_last_task_has_none(self) -> None:
        joined = a_batch(numbers(2, 2, start=7), numbers(0, 2), options=PADDED).join(dirty)["x"]

        np.testing.assert_array_equal(joined[2:], [[7, 8]] * 2)

    def test_a_piece_is_padded_with_its_own_first_row(self) -> None:
        joined = Batch([Piece(a_task(numbers(6, 1)), 3, 6)], PADDED).join(dirty)["x"]

        np.testing.assert_array_equal(joined, [[3], [4], [5], [3]])

    def test_variable_lengths_are_padded_at_the_end_with_their_first_element(self) -> None:
        joined = a_batch(numbers(1, 3, start=5), numbers(2, 1, start=8), options=VARIABLE).join(dirty)["x"]

        np.testing.assert_array_equal(joined, [[5, 6, 7], [8, 8, 8], [9, 8, 8]])

    def test_every_axis_grows_to_the_longest(self) -> None:
        joined = a_batch(numbers(1, 3, 1), numbers(1, 1, 2, start=9), options=VARIABLE).join(dirty)["x"]

        np.testing.assert_array_equal(joined, [[[0, 0], [1, 0], [2, 0]], [[9, 10], [9, 9], [9, 9]]])

    def test_each_input_has_its_own_longest(self) -> None:
        tasks = [a_task(numbers(1, 2), y=numbers(1, 1)), a_task(numbers(1, 1), y=numbers(1, 3))]

        joined = Batch([a_piece(task) for task in tasks], VARIABLE).join(dirty)

        assert joined["x"].shape == (2, 2)
        assert joined["y"].shape == (2, 3)

    def test_rows_added_are_as_long_as_the_longest(self) -> None:
        options = Options(max_batch_size=4, allowed_batch_sizes=(4,), pad_variable_length_inputs=True)

        joined = a_batch(numbers(1, 2), numbers(1, 1, start=9), options=options).join(dirty)["x"]

        np.testing.assert_array_equal(joined, [[0, 1], [9, 9], [9, 9], [9, 9]])

    def test_strings_of_variable_length(self) -> None:
        first, second = np.array([[b"a", b"b"]], object), np.array([[b"c"]], object)

        joined = a_batch(first, second, options=VARIABLE).join(dirty)["x"]

        assert joined.tolist() == [[b"a", b"b"], [b"c", b"c"]]


class TestSplit:
    def test_gives_each_task_its_rows_as_a_view(self) -> None:
        tasks = [a_task(numbers(2, 1)), a_task(numbers(0, 1)), a_task(numbers(1, 1))]
        output = numbers(4, 5)

        ended = Batch([a_piece(task) for task in tasks], PADDED).split({"y": output}, Lock())

        assert ended == tasks
        for task, rows in zip(tasks, [output[:2], output[2:2], output[2:3]], strict=True):
            assert task.outputs is not None
            np.testing.assert_array_equal(task.outputs["y"], rows)
            assert task.outputs["y"].base is output.base

    def test_a_task_alone_gets_the_outputs_as_they_are(self) -> None:
        task, outputs = a_task(numbers(2, 1)), {"y": numbers(2, 5)}

        Batch([a_piece(task)], OPTIONS).split(outputs, Lock())

        assert task.outputs is outputs

    def test_a_task_alone_gets_none_of_the_rows_that_were_added(self) -> None:
        task = a_task(numbers(3, 1))

        Batch([a_piece(task)], PADDED).split({"y": numbers(4, 5)}, Lock())

        assert task.outputs is not None
        np.testing.assert_array_equal(task.outputs["y"], numbers(3, 5))

    @pytest.mark.parametrize(
        ("output", "text"),
        [
            (numbers(), "Batched output tensor has 0 dimensions: y"),
            (
                numbers(3),
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                "input tensors: y has 3, expected 4",
            ),
        ],
    )
    def test_an_output_has_a_row_for_each_row(self, output: Array, text: str) -> None:
        batch = a_batch(numbers(2, 1), numbers(1, 1), options=PADDED)

        with pytest.raises(BatchOutputError) as refusal:
            batch.split({"z": numbers(4), "y": output}, Lock())

        assert str(refusal.value) == text
        assert not any(task.ended for task in batch.tasks)

    def test_without_a_batch_axis_everything_passes_through(self) -> None:
        task, outputs = Task({"x": numbers(3)}, lambda _: None, rows=1), {"y": numbers()}
        batch = Batch([a_piece(task)], PADDED, batched=False)

        assert batch.padded == 1
        assert batch.join(np.empty) is task.inputs
        assert batch.split(outputs, Lock()) == [task]
        assert task.outputs is not None
        assert task.outputs["y"] is outputs["y"]


class TestPieces:
    def test_are_joined_in_order_whichever_ends_first(self) -> None:
        task = a_task(numbers(5, 1))
        first, second = Batch([Piece(task, 0, 3)], OPTIONS), Batch([Piece(task, 3, 5)], OPTIONS)

        assert second.split({"y": numbers(2, start=3)}, Lock()) == []
        assert first.split({"y": numbers(3)}, Lock()) == [task]

        assert task.outputs is not None
        np.testing.assert_array_equal(task.outputs["y"], numbers(5))

    def test_that_cannot_be_joined_fail_only_their_task(self) -> None:
        task, other = a_task(numbers(5, 1)), a_task(numbers(1, 1))
        Batch([Piece(task, 0, 3)], VARIABLE).split({"y": numbers(3, 7)}, Lock())

        ended = Batch([Piece(task, 3, 5), a_piece(other)], VARIABLE).split({"y": numbers(3, 4)}, Lock())

        assert ended == [task, other]
        assert isinstance(task.error, BatchOutputError)
        assert task.outputs is None
        assert other.outputs is not None

    def test_that_return_after_one_has_failed_change_nothing(self) -> None:
        task, error = a_task(numbers(2, 1)), ValueError("the first piece")
        first, second = Batch([Piece(task, 0, 1)], OPTIONS), Batch([Piece(task, 1, 2)], OPTIONS)

        assert first.fail(error, Lock()) == [task]
        assert second.split({"y": numbers(1)}, Lock()) == []
        assert second.fail(ValueError("the second piece"), Lock()) == []

        assert task.error is error
        assert task.outputs is None


def test_halves_hold_the_same_tasks_in_order() -> None:
    batch = a_batch(numbers(1, 1), numbers(2, 1), numbers(3, 1))

    first, second = batch.halves()

    assert first.tasks + second.tasks == batch.tasks
    assert (len(first), len(second)) == (1, 2)
    assert (first.rows, second.rows) == (1, 5)


def test_deliver_calls_each_recipient_once_with_its_tasks() -> None:
    got: list[tuple[str, Sequence[Task]]] = []

    def recipient(name: str) -> Callable[[Sequence[Task]], None]:
        return lambda tasks: got.append((name, list(tasks)))

    one, other = recipient("one"), recipient("other")
    tasks = [Task({}, give, rows=1) for give in (one, other, one)]

    deliver(tasks)

    assert got == [("one", [tasks[0], tasks[2]]), ("other", [tasks[1]])]
