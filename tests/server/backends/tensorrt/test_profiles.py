"""Optimization profiles: how they follow from the batching options, and which profile a batch uses."""

from typing import Any

import pytest

from headrace_batching import Options
from headrace_protos import Code, DataType
from headrace_server.backends.signature import TensorSpec
from headrace_server.backends.tensorrt.profiles import (
    Bounds,
    choose,
    fitted,
    least_rows,
    misfit,
    profiles_for,
)
from headrace_server.config.tensorrt import TensorrtOptions
from headrace_server.errors import ServingError


def spec(name: str, *dims: int | str) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else None for size in dims)
    return TensorSpec(name, DataType.DT_FLOAT, shape, tuple("" if isinstance(size, int) else size for size in dims))


def built(*specs: TensorSpec, batching: Options | None = None, **options: Any) -> list[dict[str, tuple[Any, ...]]]:
    """The profiles as plain tuples."""
    profiles = profiles_for({spec.name: spec for spec in specs}, batching, TensorrtOptions(**options))
    return [{name: tuple(bounds) for name, bounds in profile.items()} for profile in profiles]


class TestChoice:
    def test_from_one_row_to_the_largest_batch_and_best_at_that(self) -> None:
        assert built(spec("x", "N", 4), batching=Options(max_batch_size=32)) == [{"x": ((1, 4), (32, 4), (32, 4))}]

    def test_the_rows_to_tune_for_can_be_set(self) -> None:
        options = Options(max_batch_size=32)

        assert built(spec("x", "N", 4), batching=options, opt_batch_size=8) == [{"x": ((1, 4), (8, 4), (32, 4))}]
        assert built(spec("x", "N", 4), batching=options, opt_batch_size=99) == [{"x": ((1, 4), (32, 4), (32, 4))}]

    def test_each_allowed_size_is_tuned_for(self) -> None:
        options = Options(max_batch_size=32, allowed_batch_sizes=(1, 8, 32))

        assert built(spec("x", "N"), spec("y", "N", 2), batching=options) == [
            {"x": ((1,), (1,), (1,)), "y": ((1, 2), (1, 2), (1, 2))},
            {"x": ((2,), (8,), (8,)), "y": ((2, 2), (8, 2), (8, 2))},
            {"x": ((9,), (32,), (32,)), "y": ((9, 2), (32, 2), (32, 2))},
        ]

    def test_many_allowed_sizes_share_a_profile(self) -> None:
        options = Options(max_batch_size=9, allowed_batch_sizes=tuple(range(1, 10)))

        assert built(spec("x", "N"), batching=options) == [{"x": ((1,), (9,), (9,))}]

    def test_a_split_batch_is_no_larger_than_the_execution_limit(self) -> None:
        options = Options(max_batch_size=100, enable_large_batch_splitting=True, max_execution_batch_size=10)

        assert built(spec("x", "N"), batching=options) == [{"x": ((1,), (10,), (10,))}]

    def test_without_batching_there_is_one_row(self) -> None:
        assert built(spec("x", "N", 4)) == [{"x": ((1, 4), (1, 4), (1, 4))}]

    def test_dimensions_beyond_the_batch_go_by_their_names_or_their_places(self) -> None:
        ranges = {"W": (1, 64, 512), "y.1": (2, 3, 4)}

        assert built(
            spec("x", "N", "W"), spec("y", "N", ""), batching=Options(max_batch_size=2), dimensions=ranges
        ) == [{"x": ((1, 1), (2, 64), (2, 512)), "y": ((1, 2), (2, 3), (2, 4))}]

    def test_a_model_without_a_batch_axis_has_only_configured_dimensions(self) -> None:
        inputs = spec("x", "N"), spec("y", 3, "W")

        assert built(*inputs, batching=Options(), dimensions={"N": (1, 2, 3), "W": (4, 5, 6)}) == [
            {"x": ((1,), (2,), (3,)), "y": ((3, 4), (3, 5), (3, 6))}
        ]

    def test_fixed_shapes_need_no_profile(self) -> None:
        assert built(spec("x", 1, 4), spec("s")) == []

    def test_a_variable_dimension_without_a_range(self) -> None:
        with pytest.raises(ServingError, match=r"dimension 1 of input x varies: .*\('W' or 'x\.1'\)") as raised:
            built(spec("x", "N", "W"))
        assert raised.value.code == Code.INVALID_ARGUMENT

    @pytest.mark.parametrize("name", ["w", "N", "x.0", "x.2"])
    def test_an_unknown_dimension(self, name: str) -> None:
        with pytest.raises(ServingError, match=rf"no input has a dimension '{name}' that varies"):
            built(spec("x", "N", "W"), dimensions={"W": (1, 2, 3), name: (1, 2, 3)})


def rows_profile(*ranges: tuple[int, int, int]) -> list[dict[str, Bounds]]:
    return [{"x": Bounds(*((rows, 2) for rows in sizes))} for sizes in ranges]


class TestTaking:
    @pytest.mark.parametrize(("rows", "index"), [(0, None), (1, 0), (4, 0), (5, 1), (8, 1), (9, None)])
    def test_a_batch_runs_in_the_profile_that_takes_it(self, rows: int, index: int | None) -> None:
        assert choose(rows_profile((1, 4, 4), (5, 8, 8)), {"x": (rows, 2)}) == index

    def test_of_several_profiles_the_one_tuned_for_the_batch(self) -> None:
        profiles = rows_profile((1, 64, 64), (1, 1, 64), (1, 16, 64))

        assert [choose(profiles, {"x": (rows, 2)}) for rows in (1, 12, 50)] == [1, 2, 0]

    def test_a_shape_of_another_rank_or_size_is_not_taken(self) -> None:
        profiles = rows_profile((1, 4, 4))

        assert choose(profiles, {"x": (1, 3)}) is None
        assert choose(profiles, {"x": (1,)}) is None

    def test_the_reason_why_no_profile_takes_a_batch(self) -> None:
        profiles = rows_profile((2, 4, 4), (5, 8, 8))

        assert misfit(profiles, {"x": (9, 2)}).message == (
            "input x: dimension 0 is 9, and the engine was built for 2 to 8"
        )
        mixed = [{"x": Bounds((1,), (1,), (1,)), "y": Bounds((2,), (2,), (2,))}]
        mixed += [{"x": Bounds((2,), (2,), (2,)), "y": Bounds((1,), (1,), (1,))}]
        error = misfit(mixed, {"x": (1,), "y": (1,)})
        assert error.message == "no optimization profile of the engine takes these sizes together: x [1], y [1]"
        assert error.code == Code.INVALID_ARGUMENT

    @pytest.mark.parametrize(("rows", "padded"), [(0, 4), (3, 4), (4, 4), (6, 6), (9, 12), (12, 12), (13, 13)])
    def test_a_batch_too_short_for_every_profile_is_padded(self, rows: int, padded: int) -> None:
        assert least_rows(rows_profile((4, 8, 8), (12, 12, 12)), {"x": (rows, 2)}) == padded


class TestFitting:
    def test_no_batch_is_larger_than_the_engine_takes(self) -> None:
        assert fitted(Options(max_batch_size=100), 32, graphs=False) == Options(max_batch_size=32)
        assert fitted(Options(max_batch_size=16), 32, graphs=False) == Options(max_batch_size=16)

    def test_no_allowed_size_is_larger_than_the_engine_takes(self) -> None:
        options = Options(max_batch_size=100, allowed_batch_sizes=(4, 16, 100))

        assert fitted(options, 32, graphs=True) == Options(max_batch_size=32, allowed_batch_sizes=(4, 16, 32))

    def test_large_requests_are_split_to_fit(self) -> None:
        options = Options(max_batch_size=100, enable_large_batch_splitting=True)

        fitting = fitted(options, 32, graphs=False)

        assert (fitting.max_batch_size, fitting.execution_limit) == (100, 32)

    @pytest.mark.parametrize(("most", "sizes"), [(1, (1,)), (2, (1, 2)), (8, (1, 2, 4, 8)), (20, (1, 2, 4, 8, 16, 20))])
    def test_cuda_graphs_limit_the_number_of_sizes(self, most: int, sizes: tuple[int, ...]) -> None:
        assert fitted(Options(max_batch_size=100), most, graphs=True).allowed_batch_sizes == sizes
