"""What a version's answers depend on: the same numbers as scikit-learn's for its own model, seed for seed."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.inspection import permutation_importance
from sklearn.model_selection import train_test_split

from headrace_toolkit import Data, Recipe, ToolkitError, convert, load
from headrace_toolkit.explain import explain
from headrace_toolkit.progress import Silent
from headrace_toolkit.recipe import DataOptions
from tests.support.running import COMMAND
from tests.toolkit import models

LABELS = Recipe(data=DataOptions(labels="y"), seed=3)


@pytest.fixture(scope="module")
def cancer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with cancer/1, test.npz and test.csv; and scikit-learn's own importances."""
    folder = tmp_path_factory.mktemp("explain")
    messages = load_breast_cancer()
    x, y = messages.data.astype(np.float32), messages.target
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
    model = GradientBoostingClassifier(n_estimators=10, random_state=0).fit(train_x, train_y)
    own = permutation_importance(model, test_x, test_y, n_repeats=2, random_state=3)
    np.savez(folder / "test.npz", x=test_x, y=test_y)
    columns = [name.replace(" ", "_") for name in messages.feature_names]
    lines = [",".join([*columns, "y"]), *(",".join(map(str, [*row, label])) for row, label in
                                          zip(test_x.tolist(), test_y, strict=True))]  # fmt: skip
    (folder / "test.csv").write_text("\n".join(lines))
    convert(load(model), Data.read(folder / "test.npz", "y")).publish(folder / "cancer")
    return folder, own


def test_as_scikit_learn_has_it(cancer: tuple[Path, Any]) -> None:
    folder, own = cancer
    found = explain(str(folder / "cancer/1"), Data.read(folder / "test.npz", "y"), LABELS, Silent(), repeats=2)
    means = {one.name: one.mean for one in found.features}
    assert means == {f"x[{column}]": mean for column, mean in enumerate(own.importances_mean)}
    deviations = {one.name: one.deviation for one in found.features}
    assert deviations == {f"x[{column}]": deviation for column, deviation in enumerate(own.importances_std)}
    assert [one.mean for one in found.features] == sorted(own.importances_mean, reverse=True)
    assert found.version == "cancer/1"


def test_the_command_names_the_columns_of_a_table(cancer: tuple[Path, Any]) -> None:
    folder, own = cancer
    words = ["explain", "cancer/1", "--data=test.csv", "--labels=y", "--repeats=2", "--seed=3", "--json=found.json"]
    done = subprocess.run([COMMAND, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cancer/1: accuracy 0.9")
    assert "and 10 others" in done.stdout
    found = json.loads((folder / "found.json").read_text())
    best = load_breast_cancer().feature_names[int(own.importances_mean.argmax())].replace(" ", "_")
    assert found["features"][0]["name"] == best
    assert found["features"][0]["mean"] == own.importances_mean.max()


def test_an_error_that_grows_is_a_loss_too(cancer: tuple[Path, Any]) -> None:
    folder, _ = cancer
    recipe = Recipe(data=DataOptions(labels="y", metric="mean_squared_error", output="probabilities"))
    rows = Data.read(folder / "test.npz", "y")
    with pytest.raises(ToolkitError, match="needs an output of one number a row"):
        explain(str(folder / "cancer/1"), rows, recipe, Silent())
    (folder / "metric.py").write_text("def score(outputs, labels):\n    return (outputs['label'] == labels).mean()\n")
    recipe = Recipe(data=DataOptions(labels="y", metric=f"{folder / 'metric.py'}:score"), seed=3)
    found = explain(str(folder / "cancer/1"), rows, recipe, Silent(), repeats=2)
    assert max(one.mean for one in found.features) > 0


def test_pictures_without_labels(made: Path) -> None:
    rows = Data("rows", "", {"x": models.pictures(models.digits().test_x[:64], (1, 8, 8))})
    found = explain(str(made / "cnn.onnx"), rows, Recipe(), Silent(), repeats=1)
    means = {one.name: one.mean for one in found.features}
    assert len(means) == 64
    assert means["x[0,3,4]"] > 10 * abs(means["x[0,0,0]"])  # a corner that is black in all pictures
    assert any("compared with the model's own answers" in text for text in found.messages)


def test_there_must_be_rows(made: Path) -> None:
    done = subprocess.run([COMMAND, "explain", "cnn.onnx"], cwd=made, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "headrace: explain needs rows to shuffle: give some with --data\n")
