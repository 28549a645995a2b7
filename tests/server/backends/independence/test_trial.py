"""The trial on array functions: which inputs it tries, what it concludes from the answers, and what it costs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from headrace_batching.task import Array
from headrace_protos import Code, DataType, Example
from headrace_server.backends.independence import Evidence, Finding, Verdict, repeated_batch_name, try_rows
from headrace_server.backends.signature import TensorSpec
from headrace_server.errors import RunLost
from tests.support.subjects import BETWEEN, IDS, SLOW, X, Y, subject, timed

BUDGET = 10.0  # seconds; every function here is fast


def tried(function: Callable[..., object], *inputs: TensorSpec) -> Verdict:
    return try_rows(subject(function, *inputs), BUDGET)


Models = Sequence[Callable[[Array], object]]

CHOICES: Mapping[str, tuple[DataType, Models]] = {
    "floats": (
        DataType.DT_FLOAT,
        (
            lambda x: x / np.float32(255 if x.max() > 1 else 1),
            lambda x: x / np.float32(255 if x.max() > 100 else 1),
            lambda x: x / np.float32(255 if x.min() < 0 else 1),
            lambda x: x / np.float32(255 if x.min() < 1.5 else 1),
            lambda x: x + (x == np.rint(x)).all(),
        ),
    ),
    "bytes": (
        DataType.DT_UINT8,
        (
            lambda x: x / (255 if x.max() > 1 else 1),
            lambda x: x / (255 if x.max() > 128 else 1),
            lambda x: x / max(1, x.max()),
            lambda x: x - x.min(),
        ),
    ),
    "signed": (DataType.DT_INT8, (lambda x: x + (x < 0).any(), lambda x: x / max(1, x.max()))),
    "integers": (
        DataType.DT_INT64,
        (lambda x: x - x.min(), lambda x: x - x.max(), lambda x: x + (x < 0).any(), lambda x: x * (x.max() > 1)),
    ),
    "strings": (
        DataType.DT_STRING,
        (
            lambda x: _lengths(x) + (x == b"").any(),
            lambda x: _lengths(x) + any(each != each.lower() for each in x.flat),
            lambda x: _lengths(x) + any(not each.isascii() for each in x.flat),
            lambda x: _lengths(x) + len(set(x.flat)),
        ),
    ),
    "flags": (DataType.DT_BOOL, (lambda x: x + 2 * x.all(), lambda x: x + 2 * x.any())),
}
"""Models that ask a question about all values of a batch, by dtype."""


def _lengths(x: Array) -> Array:
    return np.array([len(each) for each in x.flat]).reshape(x.shape)


def test_independent_rows() -> None:
    assert tried(lambda x: np.tanh(x)).finding is Finding.INDEPENDENT


def test_the_output_and_its_change_are_named() -> None:
    verdict = tried(lambda x: x - x.mean(axis=0))

    assert (verdict.finding, verdict.output) == (Finding.DEPENDENT, "y")
    assert 0 < verdict.change < 10
    assert verdict.reason.startswith("output 'y' changes by up to ")


class TestNeighbours:
    @pytest.mark.parametrize("place", [0, 1, -1])
    def test_the_other_rows_may_change_a_single_row(self, place: int) -> None:
        def model(x: Array) -> Array:
            y = x.copy()
            y[place] += x.sum(axis=0) - x[place]
            return y

        assert tried(model).finding is Finding.DEPENDENT

    @pytest.mark.parametrize("place", [0, -1])
    def test_a_single_row_may_change_the_others(self, place: int) -> None:
        assert tried(lambda x: x + x[place]).finding is Finding.DEPENDENT

    @pytest.mark.parametrize(
        "model",
        [
            lambda x: x + (np.abs(x).max() > 1e5),
            lambda x: x + (x == 0).any(),
            lambda x: x + 0 / x.sum(),
            lambda x: x + (x == 0).all(),
        ],
        ids=["huge", "zero", "divided by the sum", "nothing but zeros"],
    )
    def test_some_influences_appear_only_with_unusual_values(self, model: Callable[..., object]) -> None:
        assert tried(model).finding is Finding.DEPENDENT

    @pytest.mark.parametrize("budget", [BUDGET, 0.0], ids=["quick", "slow"])
    @pytest.mark.parametrize("shape", [(None,), (None, 1), (None, 50), (None, 9, 9, 3)], ids=str)
    @pytest.mark.parametrize("name", ["floats", "bytes", "signed", "integers", "strings", "flags"])
    def test_one_choice_for_the_whole_batch(self, name: str, shape: tuple[int | None, ...], budget: float) -> None:
        dtype, models = CHOICES[name]
        spec = TensorSpec("x", dtype, shape, ("N", *[""] * (len(shape) - 1)))

        for model in models:
            assert try_rows(subject(model, spec), budget).finding is Finding.DEPENDENT

    @pytest.mark.parametrize("far", [4, 5, 11, 20])
    @pytest.mark.parametrize("of_later", [False, True])
    @pytest.mark.parametrize("leak", [False, True])
    def test_some_influences_appear_only_in_large_batches(self, far: int, of_later: bool, leak: bool) -> None:
        def model(x: Array) -> Array:
            y, other = x.copy(), x * np.float32(0) if leak else x
            (y[:-far] if of_later else y[far:])[...] += other[far:] if of_later else other[:-far]
            return y

        assert tried(model).finding is Finding.DEPENDENT

    @pytest.mark.parametrize("far", [5, 39])
    def test_integers_may_be_indices_into_a_few_rows_only(self, far: int) -> None:
        table = np.arange(24, dtype=np.float32).reshape(6, 4)

        def model(ids: Array) -> Array:
            y: Array = table[ids]
            y[far:] += table[ids][:-far]
            return y

        assert tried(model, IDS).finding is Finding.DEPENDENT

    def test_a_model_that_counts_the_rows_after_each(self) -> None:
        assert tried(lambda x: x + np.maximum(0, np.arange(len(x))[::-1] - 3)[:, None]).finding is Finding.DEPENDENT

    def test_a_difference_below_the_rounding_error_is_still_a_change(self) -> None:
        assert tried(lambda x: x * (1 + np.float32(1e-7) * (x.sum() > 0))).finding is Finding.DEPENDENT

    def test_an_inexact_device_may_round_differently(self) -> None:
        own = replace(subject(lambda x: x * (1 + np.float32(1e-6) * (x.sum() > 0))), exact=False)

        assert try_rows(own, BUDGET).finding is Finding.INDEPENDENT

    def test_an_inexact_device_may_not_mix_rows(self) -> None:
        own = replace(subject(lambda x: x - x.mean(axis=0)), exact=False)

        assert try_rows(own, BUDGET).finding is Finding.DEPENDENT

    def test_a_model_whose_answers_vary_within_rounding_need_not_be_exact(self) -> None:
        noise: Iterator[int] = count()

        assert tried(lambda x: np.tanh(x) * np.float32(1 + next(noise) % 7 * 1e-7)).finding is Finding.INDEPENDENT

    def test_a_model_that_draws_random_numbers_is_undecided(self) -> None:
        random = np.random.default_rng(1)

        assert tried(lambda x: x + random.normal(size=x.shape)).finding is Finding.UNDECIDED


class TestBounded:
    """Rows that change other rows only if they have values that are huge or not finite."""

    @pytest.mark.parametrize(
        ("model", "bound"),
        [
            (lambda x: x + 0 * x.sum(), 1e30),
            (lambda x: x + 0 * x.max(axis=0), 1e30),
            (lambda x: x + np.isnan(x).any(), 1e30),
            (lambda x: x + np.isinf(x).any(), 1e30),
            (lambda x: x + 0 * (x * x).sum(), 1e15),
            (lambda x: x + 0 * (x.T @ x).sum(), 1e15),
            (lambda x: x + 0 * (x**4).sum(), 1e6),
        ],
    )
    @pytest.mark.parametrize("budget", [BUDGET, 0.0], ids=["quick", "slow"])
    def test_the_largest_magnitude_is_found(self, model: Callable[..., object], bound: float, budget: float) -> None:
        verdict = try_rows(subject(model), budget)

        assert (verdict.finding, verdict.bound) == (Finding.BOUNDED, bound)
        assert verdict.batched
        assert "when the other rows hold" in verdict.reason
        assert verdict.effect.startswith(
            f"batched if all numbers are finite and at most {bound:g}; otherwise one by one: "
        )

    @pytest.mark.parametrize(
        "model",
        [
            lambda x: x + 1e-30 * x.sum(),
            lambda x: x + 0 * np.exp(x.sum()),
            lambda x: x + 0 * np.sqrt(x.sum()),
            lambda x: np.maximum(x, 0) + 1e-20 * x.sum(),
        ],
        ids=["tiny", "exponential", "root", "tiny beside zeros"],
    )
    @pytest.mark.parametrize("budget", [BUDGET, 0.0], ids=["quick", "slow"])
    def test_no_bound_if_ordinary_values_change_rows_too(self, model: Callable[..., object], budget: float) -> None:
        assert try_rows(subject(model), budget).finding is Finding.DEPENDENT

    @pytest.mark.parametrize(
        ("model", "bound"),
        [(lambda x: x + (np.abs(x).max() > 1e34), 1e30), (lambda x: x + (x.min() < -1e10), 1e6)],
    )
    def test_the_bound_is_no_larger_than_the_values_that_change_rows(
        self, model: Callable[..., object], bound: float
    ) -> None:
        assert tried(model).bound == bound

    def test_integers_have_no_bound(self) -> None:
        assert tried(lambda ids: ids + 1.0 * (ids.max() > 6), IDS).finding is Finding.DEPENDENT

    def test_strings_have_no_bound(self) -> None:
        text = TensorSpec("text", DataType.DT_STRING, (None,), ("N",))

        def model(text: Array, x: Array) -> Array:
            y: Array = x + 0 * x.sum() + np.array([len(each) for each in text])[:, np.newaxis]
            return y

        assert tried(model, text, X).finding is Finding.DEPENDENT

    def test_an_inexact_device_has_no_bound(self) -> None:
        own = replace(subject(lambda x: x + 0 * x.sum()), exact=False)

        assert try_rows(own, BUDGET).finding is Finding.DEPENDENT

    def test_a_magnitude_that_the_model_refuses_is_no_bound(self) -> None:
        def model(x: Array) -> Array:
            if np.abs(x[np.isfinite(x)]).max(initial=0) > 1e20:
                raise ValueError("too large")
            y: Array = x + 0 * x.sum()
            return y

        assert tried(model).bound == 1e15

    def test_half_and_double_floats_have_a_bound_too(self) -> None:
        for dtype in (DataType.DT_HALF, DataType.DT_DOUBLE):
            own = replace(X, dtype=dtype)

            assert tried(lambda x: x + 0 * np.isnan(x).any() + np.isnan(x).any(), own).bound == 1e30


class TestInputs:
    def test_each_input_is_varied_alone_if_both_together_are_refused(self) -> None:
        """The model refuses NaN in `x` unless `z` has it, too; the sum of `z` is added to each row."""
        seen: list[bytes] = []

        def model(x: Array, z: Array) -> Array:
            seen.append(x.tobytes() + z.tobytes())
            if len(x) == 4 and np.isnan(x).any() and not np.isnan(z).any():
                raise ValueError("either both or none")
            y: Array = x + z.sum(axis=0)
            return y

        assert tried(model, X, replace(X, name="z")).finding is Finding.DEPENDENT

    @pytest.mark.parametrize("rows", [3, 2, 1])
    def test_whole_numbers_are_searched_for(self, rows: int) -> None:
        table = np.arange(4.0 * rows, dtype=np.float32).reshape(rows, 4) + 1

        verdict = tried(lambda ids, x: table[ids] * x, IDS, X)

        assert verdict.finding is Finding.INDEPENDENT

    def test_inner_sizes_are_searched_for(self) -> None:
        wide = replace(X, shape=(None, None), dims=("N", "W"))

        def model(x: Array) -> Array:
            if x.shape[1] % 16:
                raise ValueError("a multiple of 16")
            return x

        assert tried(model, wide).finding is Finding.INDEPENDENT

    def test_no_generated_input_would_take_gigabytes(self) -> None:
        deep = replace(X, shape=(None,) * 5, dims=("N", *"ABCD"))
        largest = 0

        def model(x: Array) -> Array:
            nonlocal largest
            largest = max(largest, x[0].size)
            raise ValueError("no such sizes")

        assert tried(model, deep).finding is Finding.UNDECIDED
        assert 8**4 <= largest <= 1 << 20

    def test_sums_of_sizes_are_sizes(self) -> None:
        past = replace(X, name="past", shape=(None, None), dims=("N", "past"))
        mask = replace(X, name="mask", shape=(None, None), dims=("N", "past + 1"))

        def model(past: Array, mask: Array) -> Array:
            product: Array = past * mask[:, 1:]
            return product

        assert tried(model, past, mask).finding is Finding.INDEPENDENT

    def test_positive_numbers_are_tried_if_other_numbers_get_no_answer(self) -> None:
        assert tried(lambda x: np.log(x.sum(axis=1, keepdims=True) * 0 + x)).finding is Finding.INDEPENDENT

    def test_a_model_that_ends_its_process_is_not_tried_again(self) -> None:
        runs = count()

        def model(x: Array) -> Array:
            if next(runs) == 1:
                raise RunLost(Code.INTERNAL, "its worker process was ended by SIGSEGV during the run")
            return x

        verdict = tried(model)

        assert (verdict.finding, verdict.runs) == (Finding.UNDECIDED, 2)
        assert verdict.reason == "its worker process was ended by SIGSEGV during the run"

    def test_a_model_that_takes_no_generated_input_is_undecided(self) -> None:
        def model(**_: Array) -> Array:
            raise ValueError("not this\nnor that")

        verdict = tried(model)

        assert verdict.finding is Finding.UNDECIDED
        assert verdict.reason == "the trial found no inputs that the model takes: not this"

    def test_a_model_with_a_constant_answer_is_undecided(self) -> None:
        assert tried(lambda x: np.ones_like(x)).reason == "no output changed with any input that was tried"

    def test_arrays_are_never_shared_with_the_model(self) -> None:
        kept = np.zeros((40, 4), np.float32)

        def model(x: Array) -> Array:
            kept[: len(x)] = np.tanh(x)
            x[...] = 7
            return kept[: len(x)]

        assert tried(model).finding is Finding.INDEPENDENT


class TestExamples:
    """A model that parses tf.Examples itself, and reports missing features as TensorFlow does."""

    SPEC = TensorSpec("inputs", DataType.DT_STRING, (None,), ("",))

    @pytest.mark.parametrize("mixed", [False, True])
    def test_the_features_of_examples_are_found(self, mixed: bool) -> None:
        def model(inputs: Array) -> Array:
            parsed = np.array([_parsed(example) for example in inputs], np.float32)
            return parsed - parsed.mean(axis=0) if mixed else parsed

        verdict = tried(model, self.SPEC)

        assert verdict.finding is (Finding.DEPENDENT if mixed else Finding.INDEPENDENT)


def _parsed(serialized: bytes) -> list[float]:
    features = Example.FromString(serialized).features.feature
    for name, kind, size in (("x", "float", 3), ("age", "int64", 1), ("word", "string", 1)):
        if name not in features:
            raise ValueError(
                f"Name: <unknown>, Feature: {name} (data type: {kind}) is required but could not be found."
            )
        values = getattr(features[name], {"string": "bytes"}.get(kind, kind) + "_list").value
        if len(values) != size:
            text = f"Number of {kind} values != expected.  Values size: {len(values)} but output shape: [{size}]"
            raise ValueError(f"Name: <unknown>, Key: {name}, Index: 0.  {text}")
    return [*features["x"].float_list.value, float(features["age"].int64_list.value[0])]


class TestRecords:
    @pytest.mark.parametrize("lengths", [(3, 5, 9), (7, 7, 2), (1, 4)])
    @pytest.mark.parametrize("budget", [BUDGET, 0.0], ids=["quick", "slow"])
    @pytest.mark.parametrize("mixed", [False, True])
    def test_the_lengths_of_records_may_differ(self, lengths: Sequence[int], budget: float, mixed: bool) -> None:
        wide = replace(X, shape=(None, None), dims=("N", "W"))
        random = np.random.default_rng(3)
        records = [{"x": random.standard_normal((2, length), np.float32)} for length in lengths]
        own = replace(subject(lambda x: x - x.mean(axis=0) if mixed else np.tanh(x), wide), records=records)

        assert try_rows(own, budget).finding is (Finding.DEPENDENT if mixed else Finding.INDEPENDENT)


class TestRows:
    @pytest.mark.parametrize("most", [1, 2, 3])
    def test_a_model_that_takes_few_rows_is_dependent(self, most: int) -> None:
        def model(x: Array) -> Array:
            if len(x) > most:
                raise ValueError("too many")
            return x

        verdict = tried(model)

        assert verdict.finding is Finding.DEPENDENT
        assert verdict.reason.startswith("the model takes ")

    def test_a_model_with_a_declared_limit_gets_no_more_rows(self) -> None:
        asked: list[int] = []

        def model(x: Array) -> Array:
            asked.append(len(x))
            return x

        assert try_rows(replace(subject(model), most_rows=3), BUDGET).finding is Finding.INDEPENDENT
        assert max(asked) <= 3

    def test_only_even_numbers_of_rows(self) -> None:
        assert tried(lambda x: x.reshape(-1, 2, 4).reshape(-1, 4)).finding is Finding.DEPENDENT


class TestCost:
    def test_a_fast_model_gets_a_full_trial(self) -> None:
        verdict, rows = timed(lambda x: np.tanh(x), seconds=1e-5)

        assert verdict.finding is Finding.INDEPENDENT
        assert 20 <= len(rows) <= 30

    def test_a_slow_model_gets_nine_runs(self) -> None:
        verdict, rows = timed(lambda x: np.tanh(x), seconds=SLOW)

        assert verdict.finding is Finding.INDEPENDENT
        assert rows == [2, 1, 2, 22, 22, 2, 2, 2, 2]

    def test_a_model_in_between_gets_the_two_larger_batches_too(self) -> None:
        verdict, rows = timed(lambda x: np.tanh(x), seconds=BETWEEN)

        assert verdict.finding is Finding.INDEPENDENT
        assert sorted(rows)[-3:] == [4, 22, 22]

    def test_a_model_too_slow_for_a_larger_batch_runs_one_by_one(self) -> None:
        verdict, rows = timed(lambda x: np.tanh(x), seconds=2.0)

        assert verdict.finding is Finding.UNDECIDED
        assert verdict.reason == "a batch of 22 rows, which the trial needs, would take about 44 s"
        assert rows == [2, 1, 2]


class TestEvidence:
    def test_evidence_overrides_the_trial(self) -> None:
        own = replace(
            subject(lambda x: np.tanh(x)), evidence=(Evidence("Dropout draws random numbers", "leave it out"),)
        )

        verdict = try_rows(own, BUDGET)

        assert (verdict.finding, verdict.reason) == (Finding.DEPENDENT, "Dropout draws random numbers")
        assert verdict.advice == "leave it out"

    @pytest.mark.parametrize(
        ("dims", "found"), [(("N", "N"), True), (("M", "N"), True), (("N", "M"), False), (("", ""), False)]
    )
    def test_the_name_of_the_batch_dimension_elsewhere(self, dims: tuple[str, str], found: bool) -> None:
        outputs: Mapping[str, TensorSpec] = {"y": replace(Y, shape=(None, None), dims=dims)}

        assert (repeated_batch_name({"x": X}, outputs) is not None) is found
