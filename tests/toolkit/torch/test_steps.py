"""Pruning, channels and distillation of a small network of digits, which is trained here in a second."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from headrace_toolkit import Data, Recipe, ToolkitError, load, optimize
from headrace_toolkit.report import Line
from headrace_toolkit.result import Result
from headrace_toolkit.sources.base import SourceOptions
from tests.toolkit import models

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make test-torch runs these tests")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

NET = """
import numpy as np, torch
from pathlib import Path
from torch import nn

HERE = Path(__file__).parent

def network(width=48):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))

def rows():
    held = np.load(HERE / "train.npz")
    return torch.from_numpy(held["x"]), torch.from_numpy(held["y"])

def fit(net, epochs=12):
    torch.manual_seed(0)
    x, y = rows()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    net.train()
    for _ in range(epochs):
        for which in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[which]), y[which]).backward()
            optimizer.step()

def trained():
    file = HERE / "weights.pt"
    net = network()
    if not file.exists():
        fit(net)
        torch.save(net.state_dict(), file)
    net.load_state_dict(torch.load(file))
    return net.eval()

def probable():
    return nn.Sequential(trained(), nn.Softmax(1))

def few():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))

def wrong():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

def touch_up(net):
    fit(net, 1)
"""

Optimized = Callable[..., Result]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    models.digits().save(folder, "x", (1, 8, 8))
    (folder / "net.py").write_text(NET)
    held = models.digits()
    labels = np.full(len(held.train_y), -1)
    labels[:100] = held.train_y[:100]
    rows: dict[str, Any] = {"x": held.train_x.reshape(-1, 1, 8, 8), "y": labels}
    np.savez(folder / "few.npz", **rows)
    np.savez(folder / "wrong.npz", **{**rows, "y": np.full(len(labels), 11)})
    np.savez(folder / "labelled.npz", **{name: array[:100] for name, array in rows.items()})
    return folder


@pytest.fixture(scope="module")
def optimized(folder: Path) -> Optimized:
    """`optimized("trained", step=[...])`; without steps, the search."""

    def run(name: str, **tables: Any) -> Result:
        data = {"labels": "y", "train": "train.npz", **tables.pop("data", {})}
        recipe = Recipe.of({"timing_seconds": 0.1, "limits": {"max_drop": 100}, "data": data, **tables}, folder)
        rows = Data.read(folder / "test.npz", "y")
        return optimize(load(f"{folder / 'net.py'}:{name}", SourceOptions(example=rows.inputs)), rows, recipe)

    return run


def line(result: Result, number: int = 2) -> Line:
    return result.report.lines[number]


def metric(result: Result, number: int = 2) -> float:
    found = line(result, number).metric
    assert found is not None
    return found


def weights(file: Path) -> np.ndarray[Any, Any]:
    model = onnx.load(file)
    return np.concatenate([numpy_helper.to_array(w).ravel() for w in model.graph.initializer if len(w.dims) > 1])


def test_a_search_takes_channels_out_and_quantizes_what_is_left(optimized: Optimized) -> None:
    result = optimized("trained", limits={"max_drop": 1.5})
    assert not result.failed, result.table()
    smaller = next(one for one in result.report.lines if one.name.startswith("0.5 of the channels removed"))
    last = [one for one in result.report.lines if one.kept][-1]  # int8, or k-means if it is as fast
    assert smaller.kept
    assert last is not smaller
    base = line(result, 1).bytes or 0
    assert (smaller.bytes or base) < 0.35 * base
    assert (last.bytes or base) < 0.2 * base
    assert last.time[32] < 0.6
    assert result.report.training is not None
    assert result.report.training.name == "train.npz"
    assert result.report.calibration is not None
    assert result.report.calibration.name == "train.npz"  # all other rows are used for measuring
    assert result.report.rows.count == 540


def test_without_rows_to_train_on_a_search_says_so(optimized: Optimized) -> None:
    result = optimized("trained", data={"train": ""}, step=[{"kind": "search", "candidates": ["channels 50", "half"]}])
    assert line(result).why == "not tried: there are no rows to train on: give some with --train"


@pytest.mark.parametrize(
    ("step", "least"),
    [
        ({"amount": 0.8, "finetune": {"epochs": 2}}, 0.9),
        ({"amount": 0.8, "schedule": "polynomial", "finetune": {"epochs": 4}}, 0.9),
        ({"amount": 0.8, "finetune": {"with": "net.py:touch_up"}}, 0.5),
        ({"amount": 0.8}, 0.0),
    ],
)
def test_zeros_stay_zeros(optimized: Optimized, step: dict[str, Any], least: float) -> None:
    result = optimized("trained", step=[{"kind": "prune", **step}])
    held = weights(result.model)
    assert abs(float((held == 0).mean()) - 0.8) < 0.001
    assert metric(result) >= least
    assert any("weights are zero (80.0" in note for note in line(result).notes)


@pytest.mark.parametrize("by", ["activation", "random"])
def test_channels_by_each_criterion(optimized: Optimized, by: str) -> None:
    step = {"kind": "channels", "amount": 0.5, "by": by, "finetune": {"epochs": 6}}
    result = optimized("trained", step=[step])
    assert line(result).name == f"0.5 of the channels removed, by {by}, 6 epochs"
    assert metric(result) > 0.8
    assert (line(result).bytes or 0) < 0.4 * (line(result, 1).bytes or 0)
    assert result.rows_verdict.finding == "independent"


def test_steps_that_change_a_module_build_on_each_other(optimized: Optimized) -> None:
    steps: list[dict[str, Any]] = [
        {"kind": "channels", "amount": 0.5},
        {"kind": "prune", "amount": 0.5, "finetune": {"epochs": 2}},
        {"kind": "quantize", "method": "static"},
    ]
    result = optimized("trained", step=steps)
    assert abs(float((weights(result.model) == 0).mean()) - 0.5) < 0.1  # and those that 7 bits round to zero
    with pytest.raises(ToolkitError, match="can change only a module, but the step before it has changed the file"):
        optimized("trained", step=[{"kind": "half"}, steps[0]])


def test_the_same_seed_makes_the_same_bytes(optimized: Optimized) -> None:
    step = {"kind": "channels", "by": "random", "finetune": {"epochs": 1}}
    results = [optimized("trained", step=[step], seed=seed) for seed in (1, 1, 2)]
    first, second, other = (result.model.read_bytes() for result in results)
    assert first == second
    assert first != other


def test_a_student_learns_more_from_its_teacher_than_from_few_labels(optimized: Optimized) -> None:
    taught = optimized("trained", step=[{"kind": "distil", "student": "net.py:few", "train": "few.npz"}])
    alone = {"kind": "distil", "student": "net.py:few", "train": "labelled.npz", "alpha": 0, "epochs": 250}
    assert metric(taught) > metric(optimized("trained", step=[alone]))  # the acceptance checks say how much more
    assert (line(taught).bytes or 0) < 0.3 * (line(taught, 1).bytes or 0)
    assert list(taught.signature.outputs) == ["output"]


def test_a_teacher_of_probabilities_has_a_student_of_probabilities(optimized: Optimized, folder: Path) -> None:
    step = {"kind": "distil", "student": "net.py:few", "alpha": 1, "epochs": 2, "train": "few.npz"}
    result = optimized("probable", step=[step])
    assert "the teacher answers with probabilities: their logarithms were used as logits" in line(result).notes
    import onnxruntime as ort

    session = ort.InferenceSession(str(result.model), providers=["CPUExecutionProvider"])
    answers = session.run(None, {"x": np.load(folder / "test.npz")["x"]})[0]
    np.testing.assert_allclose(answers.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ({"kind": "distil", "student": "net.py:wrong"}, r"answer to a row has shape \[3\], the teacher's \[10\]"),
        ({"kind": "distil", "student": "net.py:rows"}, "it must be a PyTorch module|must be a torch.nn.Module"),
        ({"kind": "channels", "ignore": ["head"]}, "ignore names the module head, which does not exist"),
        ({"kind": "channels", "finetune": {"train": "none.npz"}}, "there is no such file"),
        (
            {"kind": "channels", "finetune": {"train": "wrong.npz"}},
            r"^training net\.py:trained on wrong\.npz failed: IndexError: Target 11 is out of bounds",
        ),
        ({"kind": "prune", "finetune": {"with": "net.py:none"}}, "net.py has no function none"),
        ({"kind": "prune", "schedule": "polynomial", "end": 9999, "finetune": {"epochs": 1}}, "ends at step 9999, and"),
    ],
)
def test_errors_that_end_a_run(optimized: Optimized, step: dict[str, Any], text: str) -> None:
    with pytest.raises(ToolkitError, match=text):
        optimized("trained", step=[step])


def test_a_remaining_batch_of_one_row_does_not_fail(optimized: Optimized, folder: Path) -> None:
    held = np.load(folder / "train.npz")
    odd: dict[str, Any] = {name: held[name][:65] for name in held.files}
    np.savez(folder / "odd.npz", **odd)  # a batch of 64, and one that batch norm would refuse
    optimized("trained", step=[{"kind": "prune", "finetune": {"epochs": 1, "train": "odd.npz"}}])


def test_training_on_the_measured_rows_causes_a_warning(optimized: Optimized) -> None:
    step = {"kind": "prune", "finetune": {"epochs": 1, "train": "test.npz"}}
    result = optimized("trained", step=[step])
    assert any("540 of the 540 measured rows are trained on, too" in text for text in result.report.warnings)
