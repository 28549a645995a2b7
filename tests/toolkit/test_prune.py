"""Pruning single weights to zero: how many, which ones, and what is reported. It needs no PyTorch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from headrace_toolkit import Recipe, ToolkitError
from headrace_toolkit.result import Result
from headrace_toolkit.steps.prune import Schedule, smallest_out


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (250, 0.2890625), (500, 0.4375), (750, 0.4921875), (1000, 0.5)])
def test_the_polynomial_schedule(step: int, share: float) -> None:
    assert Schedule(initial=0.0, final=0.5, begin=0, end=1000).share(step) == share


def test_a_schedule_before_and_after_its_steps() -> None:
    plan = Schedule(initial=0.2, final=0.9, begin=100, end=300)
    assert [plan.share(step) for step in (99, 100, 300, 1000)] == pytest.approx([0.0, 0.2, 0.9, 0.9])
    shares = [plan.share(step) for step in range(100, 301)]
    assert shares == sorted(shares)


@pytest.mark.parametrize(("amount", "left"), [(0.0, 5), (0.2, 4), (0.6, 2), (1.0, 0)])
def test_the_smallest_of_all_arrays_together_go(amount: float, left: int) -> None:
    first, second = np.array([[-5.0, 1.0]]), np.array([0.5, -2.0, 4.0])
    masks = smallest_out([first, second], amount)
    assert [mask.shape for mask in masks] == [(1, 2), (3,)]
    kept = np.concatenate([np.abs(first[masks[0]]), np.abs(second[masks[1]])])
    assert sorted(kept) == sorted([5.0, 4.0, 2.0, 1.0, 0.5][:left])


def weights(file: Path) -> np.ndarray[Any, Any]:
    model = onnx.load(file)
    return np.concatenate([numpy_helper.to_array(w).ravel() for w in model.graph.initializer if len(w.dims) > 1])


def test_zeros_in_an_onnx_file(optimized: Callable[..., Result]) -> None:
    result = optimized("mlp", step=[{"kind": "prune", "amount": 0.5}], limits={"max_drop": 100})
    line = result.report.lines[2]
    base = result.report.lines[1]
    assert line.name == "0.5 of the weights zero"
    assert abs(float((weights(result.model) == 0).mean()) - 0.5) < 0.001
    assert line.bytes is not None
    assert base.bytes is not None
    assert abs(line.bytes - base.bytes) < 100
    assert line.gzip_bytes is not None
    assert base.gzip_bytes is not None
    assert line.gzip_bytes < 0.75 * base.gzip_bytes
    assert "zeros make only the compressed file smaller, and have no other effect" in line.notes
    assert not any("fast" in text for text in (line.why, *line.notes))


def test_a_threshold(optimized: Callable[..., Result]) -> None:
    result = optimized("mlp", step=[{"kind": "prune", "threshold": 0.05}], limits={"max_drop": 100})
    left = np.abs(weights(result.model))
    assert left[left > 0].min() >= 0.05
    assert result.report.lines[2].name == "zero below 0.05"


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ({"amount": 0.5, "threshold": 0.1}, "threshold and amount cannot be given together"),
        ({"amount": 2}, "amount must be a finite number from 0 to 1; was 2"),
        ({"schedule": "polynomial"}, "schedule needs an amount, and finetune with some epochs"),
        ({"schedule": "linear"}, "schedule must be one of once, polynomial; was 'linear'"),
        ({"finetune": {"epoch": 3}}, "unknown key epoch; did you mean epochs?"),
    ],
)
def test_keys_that_make_no_sense(tmp_path: Path, step: dict[str, Any], text: str) -> None:
    with pytest.raises(ToolkitError) as refusal:
        Recipe.of({"step": [{"kind": "prune", **step}]}, tmp_path)
    assert text in str(refusal.value)


@pytest.mark.parametrize("step", [{"kind": "prune", "finetune": {"epochs": 1}}, {"kind": "channels"}])
def test_a_file_has_no_module_to_train(optimized: Callable[..., Result], step: dict[str, Any]) -> None:
    with pytest.raises(ToolkitError, match=r"can change only a module, but mlp\.onnx is a file: give a function"):
        optimized("mlp", step=[step])
