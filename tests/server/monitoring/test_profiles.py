"""How far rows are from a profile that the toolkit has made."""

import json
from pathlib import Path

import numpy as np
import pytest

from headrace_batching.task import Array
from headrace_server.monitoring.profiles import Bins, read_profile
from headrace_toolkit.data import Data
from headrace_toolkit.profile import profile_of

RANDOM = np.random.default_rng(0)


def bins_of(values: Array, folder: Path) -> Bins:
    """The profile of one column, as read from a file."""
    (folder / "profile.json").write_text(json.dumps(profile_of(Data("values", "", {"x": values.reshape(-1, 1)}))))
    (bins,) = read_profile(folder)["x"]
    assert bins is not None
    return bins


def test_the_same_distribution_has_an_index_near_zero(tmp_path: Path) -> None:
    bins = bins_of(RANDOM.normal(size=5000), tmp_path)
    assert bins.index(bins.count(RANDOM.normal(size=1000))) < 0.05


@pytest.mark.parametrize("moved", [RANDOM.normal(1, size=1000), RANDOM.normal(scale=3, size=1000), np.zeros(1000)])
def test_another_one_has_a_large_index(tmp_path: Path, moved: Array) -> None:
    bins = bins_of(RANDOM.normal(size=5000), tmp_path)
    assert bins.index(bins.count(moved)) > 0.2


def test_a_column_that_is_mostly_one_value(tmp_path: Path) -> None:
    """Several quantiles are equal, as for a pixel at the edge of an image."""
    values = np.where(RANDOM.random(5000) < 0.7, 0.0, RANDOM.random(5000))
    bins = bins_of(values, tmp_path)
    assert bins.index(bins.count(values[:1000])) < 0.05
    assert bins.index(bins.count(RANDOM.random(1000))) > 0.2


def test_categories(tmp_path: Path) -> None:
    words = np.array(["red", "green", "green", "blue"] * 50, object)
    bins = bins_of(words, tmp_path)
    assert bins.index(bins.count(words)) < 0.01
    assert bins.index(bins.count(np.array([b"red", b"green"] * 50, object))) > 0.2
    assert bins.count(np.array(["red", "purple"], object)).tolist() == [0, 0, 1, 1] or bins.count(
        np.array(["red", "purple"], object)
    ).tolist() == [0, 1, 0, 1]


def test_whole_numbers(tmp_path: Path) -> None:
    bins = bins_of(np.arange(400) % 4, tmp_path)
    assert bins.count(np.array([0, 1, 2, 3, 9])).tolist() == [1, 1, 1, 1, 1]


def test_no_profile(tmp_path: Path) -> None:
    assert read_profile(tmp_path) == {}


@pytest.mark.parametrize("text", ["{}", "[]", "not JSON", '{"quantiles": [], "inputs": {"x": 1}}'])
def test_invalid_profiles(tmp_path: Path, text: str) -> None:
    (tmp_path / "profile.json").write_text(text)
    with pytest.raises(ValueError, match=r"profile\.json is not a profile of inputs: "):
        read_profile(tmp_path)
