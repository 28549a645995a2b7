"""Metrics: how one is chosen, that values equal scikit-learn's, and what counts as a drop."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from headrace_toolkit import ToolkitError
from headrace_toolkit.metric import Asked, choose, wilson

random = np.random.default_rng(0)
SCORES = random.random((40, 3)).astype(np.float32)
CLASSES = random.integers(0, 3, 40)
VALUES = random.standard_normal((40, 1)).astype(np.float32)
TRUTH = random.standard_normal(40)


def asked(name: str = "", labels: Any = None, **outputs: Any) -> Asked:
    return Asked(name=name, labels=labels, expected=outputs)


def test_accuracy() -> None:
    metric = choose(asked(labels=CLASSES, scores=SCORES))
    assert metric.name == "accuracy"
    assert metric.score({"scores": SCORES}) == metrics.accuracy_score(CLASSES, SCORES.argmax(1))
    assert metric.drop(0.99, 0.98) == pytest.approx(1.0)
    assert metric.interval(0.5) == wilson(0.5, 40)


@pytest.mark.parametrize(("scores", "edge"), [(SCORES[:, :1], 0.5), (SCORES[:, :1] * 4 - 2, 0.0)])
def test_accuracy_of_one_score(scores: Any, edge: float) -> None:
    labels = (CLASSES > 0).astype(np.int64)
    metric = choose(asked(labels=labels, p=scores))
    assert metric.score({"p": scores}) == metrics.accuracy_score(labels, scores[:, 0] > edge)


def test_classes_by_name() -> None:
    names = np.array(["ant", "bee", "cat"])[CLASSES]
    metric = choose(Asked(labels=names, expected={"scores": SCORES}, classes=("ant", "bee", "cat")))
    assert metric.score({"scores": SCORES}) == metrics.accuracy_score(CLASSES, SCORES.argmax(1))
    said = names.astype(object)
    assert choose(asked(labels=names, label=said)).score({"label": said}) == 1.0


def test_regressions() -> None:
    r2, error = (choose(asked(name, TRUTH, value=VALUES)) for name in ("", "mean_squared_error"))
    assert r2.name == "r2"
    assert r2.score({"value": VALUES}) == pytest.approx(metrics.r2_score(TRUTH, VALUES))
    assert error.score({"value": VALUES}) == pytest.approx(metrics.mean_squared_error(TRUTH, VALUES))
    assert error.drop(2.0, 3.0) == 50.0
    assert error.drop(2.0, 1.0) == -50.0


def test_without_labels_the_sources_answers_are_the_measure() -> None:
    cosine, r2 = choose(asked(v=SCORES)), choose(asked(v=VALUES))
    assert (cosine.name, r2.name) == ("cosine", "r2")
    assert cosine.score({"v": SCORES * 2}) == pytest.approx(1.0)
    assert cosine.score({"v": -SCORES}) == pytest.approx(-1.0)
    assert r2.score({"v": VALUES}) == 1.0


def test_a_users_own_metric(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def half(outputs, labels):\n    return labels.sum() / 2\ndef bad(o, y):\n    return 'a'\n"
    )
    assert choose(asked(f"{tmp_path}/mine.py:half", CLASSES, s=SCORES)).score({"s": SCORES}) == CLASSES.sum() / 2
    with pytest.raises(ToolkitError, match="returned 'a'; a metric must return a number"):
        choose(asked(f"{tmp_path}/mine.py:bad", CLASSES, s=SCORES)).score({})


def test_wilsons_interval() -> None:
    low, high = wilson(539 / 540, 540)
    assert (round(100 * low, 2), round(100 * high, 2)) == (98.96, 99.97)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (asked(labels=CLASSES + 100, scores=SCORES), r"of the model \(0, 1, 2\); 3 are not, the first of them 100"),
        (asked(labels=CLASSES - 1, scores=SCORES), "1 are not, the first of them -1"),
        (asked(labels=CLASSES + 100, label=CLASSES), "the first of them 100"),
        (asked(labels=np.array(["a"] * 40), scores=SCORES), "labels must be classes of the model"),
        (asked("accuracy", scores=SCORES), "accuracy needs labels"),
        (asked("accuracy", TRUTH, value=VALUES), "accuracy needs an output with a class or a score for each class"),
        (asked("r2", TRUTH, scores=SCORES), r"r2 needs an output of one number a row; scores has the shape \[40, 3\]"),
        (asked("r2", np.array(["a"] * 40), value=VALUES), "r2 needs labels that are numbers; they are a"),
        (asked("f1", CLASSES, scores=SCORES), "metric must be one of accuracy, r2, mean_squared_error, cosine"),
        (asked("cosine", label=CLASSES), "no output is a float: label is int64"),
        (Asked(output="nothing", labels=None, expected={"a": SCORES}), "the model has no output nothing; it has a"),
    ],
)  # fmt: skip
def test_metrics_that_do_not_fit_are_refused(given: Asked, words: str) -> None:
    with pytest.raises(ToolkitError, match=words):
        choose(given)
