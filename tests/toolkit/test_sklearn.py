"""scikit-learn, XGBoost and LightGBM: converted models answer like the library itself, and no file can run code."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, LinearSVC

from headrace_toolkit import Data, Recipe, ToolkitError, convert, load, optimize
from headrace_toolkit.published import open_version
from headrace_toolkit.result import Result
from headrace_toolkit.running import OnnxModel
from headrace_toolkit.sources.base import SourceOptions
from headrace_toolkit.specs import read_spec

FEATURES, CLASSES = load_breast_cancer(return_X_y=True)
FEATURES = FEATURES.astype(np.float32)
TRAIN, TEST = slice(0, 400), slice(400, None)
SCALED = StandardScaler().fit_transform(FEATURES)
DUMMY = KNeighborsClassifier()


def rows(features: Any = FEATURES, labels: Any = CLASSES) -> Data:
    return Data("rows", "", {"x": features[TEST]}, labels[TEST])


ESTIMATORS = [
    make_pipeline(StandardScaler(), LogisticRegression()),
    make_pipeline(StandardScaler(), MLPClassifier((16,), solver="lbfgs", max_iter=2000, random_state=0)),
    GradientBoostingClassifier(n_estimators=5),
    HistGradientBoostingClassifier(max_iter=5),
    SVC(),
    LinearSVC(),
    KNeighborsClassifier(),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "estimator", ESTIMATORS, ids=[type(getattr(e, "steps", [(0, e)])[-1][1]).__name__ for e in ESTIMATORS]
)
def test_classifiers(estimator: Any) -> None:
    result = convert(load(estimator.fit(FEATURES[TRAIN], CLASSES[TRAIN])), rows())
    line = result.report.lines[1]
    assert line.agreement == 1.0
    assert line.largest_difference is not None
    assert line.largest_difference < 1e-4
    assert line.metric == estimator.score(FEATURES[TEST], CLASSES[TEST])
    assert list(result.signature.outputs) == ["label", "probabilities"]
    assert result.labels == ("0", "1")
    assert result.rows_verdict.finding == "independent"


@pytest.mark.parametrize("estimator", [Ridge(), RandomForestRegressor(5)])
def test_regressors(estimator: Any) -> None:
    features, values = load_diabetes(return_X_y=True)
    features = features.astype(np.float32)
    result = convert(load(estimator.fit(features[TRAIN], values[TRAIN])), rows(features, values))
    line = result.report.lines[1]
    assert line.largest_difference is not None
    assert line.largest_difference < 1e-6 * values.max()
    assert result.report.metric == "r2"


def test_classes_with_names_become_labels(tmp_path: Path) -> None:
    names = np.array(["malignant", "benign"])[CLASSES]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(FEATURES[TRAIN], names[TRAIN])
    result = convert(load(model), rows(labels=names))
    assert result.report.lines[1].metric == model.score(FEATURES[TEST], names[TEST])
    result.publish(tmp_path)
    assert (tmp_path / "model.toml").read_text().endswith('method = "classify"\nlabels = ["benign", "malignant"]\n')


def test_probabilities_that_skl2onnx_made_dictionaries(tmp_path: Path) -> None:
    model = LogisticRegression(max_iter=500).fit(SCALED[TRAIN], CLASSES[TRAIN])
    file = tmp_path / "cancer" / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(to_onnx(model, SCALED[:1].astype(np.float32)).SerializeToString())
    rows = Data("rows", "", {"X": SCALED[TEST].astype(np.float32)}, CLASSES[TEST])

    result = convert(load(file), rows)
    answers = OnnxModel(result.model).run(rows.inputs)
    np.testing.assert_allclose(answers["output_probability"], model.predict_proba(SCALED[TEST]), atol=1e-5)
    assert any("with a column for each class (0, 1)" in note for note in result.report.notes)
    assert list(open_version(str(file.parent)).model.signature.outputs) == ["output_label", "output_probability"]


def test_names_of_inputs_and_outputs() -> None:
    model = Ridge().fit(SCALED[TRAIN], CLASSES[TRAIN])
    options = SourceOptions(inputs={"cells": read_spec("cells", "float32[batch,30]")}, outputs=("risk",))
    source = load(model, options)
    assert list(source.signature.inputs) == ["cells"]
    assert list(source.signature.outputs) == ["risk"]
    for wrong, words in (
        (SourceOptions(inputs={"c": read_spec("c", "float32[N,29]")}), "takes 30 columns, as in c=float32[N,30]"),
        (SourceOptions(outputs=("a", "b")), "has 1 outputs (variable), but 2 were named"),
    ):
        with pytest.raises(ToolkitError) as refused:
            load(model, wrong)
        assert words in str(refused.value)


def test_k_nearest_neighbours_cause_a_warning() -> None:
    result = convert(load(KNeighborsClassifier().fit(FEATURES[TRAIN], CLASSES[TRAIN])), rows())
    assert any("takes 3 to 5 times as long" in note for note in result.report.notes)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Ridge(), "the Ridge is not fitted"),
        (make_pipeline(FunctionTransformer(np.sqrt), DUMMY).fit(FEATURES, CLASSES), "conversion of Pipeline failed"),
        (object(), "object is a builtins.object; it must be a PyTorch module"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_converted(model: Any, words: str) -> None:
    with pytest.raises(ToolkitError, match=words):
        load(model)


def skops_file(folder: Path, model: Any = None) -> Path:
    import skops.io  # takes half a second, which every test process would spend

    skops.io.dump(model or Ridge().fit(SCALED, CLASSES), folder / "model.skops")
    return folder / "model.skops"


def xgboost_file(folder: Path, suffix: str = ".json") -> Path:
    xgboost = pytest.importorskip("xgboost")
    names = [f"feature {number}" for number in range(30)]
    matrix = xgboost.DMatrix(FEATURES[TRAIN], CLASSES[TRAIN], feature_names=names)
    xgboost.train({"objective": "binary:logistic", "max_depth": 3}, matrix, 5).save_model(folder / f"model{suffix}")
    return folder / f"model{suffix}"


def lightgbm_file(folder: Path) -> Path:
    lightgbm = pytest.importorskip("lightgbm")
    data = lightgbm.Dataset(FEATURES[TRAIN], CLASSES[TRAIN], params={"verbose": -1})
    lightgbm.train({"objective": "binary", "verbose": -1}, data, 5).save_model(folder / "model.txt")
    return folder / "model.txt"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (skops_file, "sklearn"),
        (xgboost_file, "xgboost"),
        (lambda folder: xgboost_file(folder, ".ubj"), "xgboost"),
        (lightgbm_file, "lightgbm"),
    ],
    ids=["skops", "xgboost json", "xgboost ubj", "lightgbm"],
)
def test_files(tmp_path: Path, made: Callable[[Path], Path], kind: str) -> None:
    source = load(made(tmp_path))
    assert source.origin.kind == kind
    result: Result = convert(source, rows())
    differing = result.report.lines[1].differing
    assert differing is not None
    assert differing <= 0.02
    assert all(spec.shape[0] is None for spec in result.signature.outputs.values())
    assert result.rows_verdict.finding == "independent"


class Writes:
    """A pickle of this class creates a file when it is loaded."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.file, "w")


def pickled(folder: Path, name: str) -> Path:
    content = pickle.dumps(Writes(str(folder / "was_run")), protocol=4)
    if name.endswith(".pt"):
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr("model/data.pkl", content)
        content = archive.getvalue()
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "model.pt"])
def test_a_pickle_is_not_loaded_without_trust(tmp_path: Path, name: str) -> None:
    with pytest.raises(ToolkitError, match=r"runs any code that its author put into it.*--trust_pickle.*skops"):
        load(pickled(tmp_path, name))
    assert not (tmp_path / "was_run").exists()


def test_a_trusted_pickle_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Ridge().fit(SCALED, CLASSES)))
    assert load(tmp_path / "model.pkl", SourceOptions(trust_pickle=True)).origin.kind == "sklearn"


def test_a_skops_file_with_unknown_types_is_refused_by_name(tmp_path: Path) -> None:
    file = skops_file(tmp_path, FunctionTransformer(np.savetxt))
    with pytest.raises(ToolkitError, match=r"contains types that might run code: numpy\.savetxt"):
        load(file)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_perceptron_with_its_scaler_is_quantized(tmp_path: Path, classes: int) -> None:
    labels = np.arange(len(FEATURES)) % 3 if classes == 3 else CLASSES
    model = make_pipeline(StandardScaler(), MLPClassifier((64,), solver="lbfgs", max_iter=2000, random_state=0))
    source = load(model.fit(FEATURES[TRAIN], labels[TRAIN]))
    limits = {"max_drop": 100}
    recipe = Recipe.of({"step": [STATIC], "timing_seconds": 0.05, "limits": limits}, tmp_path)
    assert optimize(source, rows(labels=labels), recipe).report.lines[2].name == "static int8, per channel, 7 bit"


def test_a_search_without_candidates_says_so(tmp_path: Path) -> None:
    result = optimize(load(xgboost_file(tmp_path)), rows(), Recipe(timing_seconds=0.05))
    assert result.failed.startswith("no candidate can help this model: nothing is published")
    assert all("not tried: a tree ensemble" in line.why for line in result.report.lines[2:])


STATIC = {"kind": "quantize", "method": "static"}
