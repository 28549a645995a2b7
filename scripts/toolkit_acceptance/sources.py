"""Checks 3 to 5 and 17: models of Keras, XGBoost, LightGBM and scikit-learn give the same answers in ONNX."""

import json
import subprocess
import warnings
from typing import Any

import numpy as np

from headrace_toolkit import Data, convert, load
from scripts.toolkit_acceptance.scene import ROOT, Scene, at_most
from tests.toolkit.test_sklearn import lightgbm_file, xgboost_file


def keras(scene: Scene) -> str:
    """3: a Keras model answers the same as .keras, .h5, SavedModel and TFLite; int8 TFLite answers as in LiteRT."""
    python = scene.python("tensorflow")
    if scene.given is None:
        words = [python, "-m", "tests.toolkit.convert_tensorflow", str(scene.folder)]
        done = subprocess.run(words, cwd=ROOT, env=scene.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        found = json.loads(done.stdout.splitlines()[-1])
        forms = found.pop("forms")
        for name, result in found.items():
            at_most(result["largest_difference"], 1e-4, f"{name}: largest difference")
            assert result["agreement"] == 1.0, name
        for form, result in forms.items():
            at_most(result["served_difference"], 1e-4 if form == "float" else 0.1, f"TFLite {form}: largest difference")
        return f"{', '.join(found)}; as TFLite: {', '.join(forms)}"
    rows = scene.folder / "images.npz"
    held = np.load(scene.given / "data" / "digits.npz")
    images = held["test_x"].reshape(-1, 8, 8, 1).astype(np.float32) / 16
    np.savez(rows, image=images, y=held["test_y"].astype(np.int64))
    observed = []
    for name in ("digits.keras", "digits.h5", "digits_saved_model", "digits_fp32.tflite", "digits_int8.tflite"):
        given = [f"--data={rows}", "--labels=y"]
        run = scene.headrace("convert", scene.given / "models" / name, "keras", *given, within="tensorflow")
        assert run.status == 0, run.error
        step = run.step("convert")
        at_most(step["largest_difference"], 1.0 if "int8" in name else 1e-4, f"{name}: largest difference")
        assert step["agreement"] == 1.0, name
        at_most(abs(step["metric"] - 0.9667), 1e-4, f"{name}: accuracy beside 0.9667")
        observed.append(f"{name} {step['metric']:.4f}")
    return ", ".join(observed)


def importances(scene: Scene) -> str:
    """17: the cost of shuffling columns is the same for the ONNX model and for scikit-learn's own, seed for seed."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import train_test_split

    features, labels = load_breast_cancer(return_X_y=True)
    split = train_test_split(features.astype(np.float32), labels, test_size=0.3, random_state=0, stratify=labels)
    train_x, test_x, train_y, test_y = split
    model = GradientBoostingClassifier(n_estimators=30, random_state=0).fit(train_x, train_y)
    own = permutation_importance(model, test_x, test_y, n_repeats=5, random_state=0).importances_mean
    np.savez(scene.folder / "cancer_rows.npz", x=test_x, y=test_y)
    rows = Data.read(scene.folder / "cancer_rows.npz", "y")
    convert(load(model), rows).publish(scene.folder / "explained")
    run = scene.headrace("explain", "explained/1", "--data=cancer_rows.npz", "--labels=y")
    assert run.status == 0, run.error
    found = {one["name"]: one["mean"] for one in run.report["features"]}
    worst = max(abs(found[f"x[{column}]"] - mean) for column, mean in enumerate(own))
    at_most(worst, 0.0, "largest difference from scikit-learn's own")
    best = run.report["features"][0]
    return f"difference {worst:g}; first {best['name']} {best['mean']:.4f}"


def boosters(scene: Scene) -> str:
    """4: XGBoost's answers agree within 1e-6, and LightGBM's except on the edge of a split; `label` is batched."""
    rows = scene.folder / "cancer.npz"
    files = []
    if scene.given is not None:
        rows = scene.given / "data" / "cancer_test.npz"
        files = [scene.given / "models" / name for name in ("cancer_xgb.json", "cancer_xgb.ubj", "cancer_lgbm.txt")]
    else:
        from sklearn.datasets import load_breast_cancer

        features, labels = load_breast_cancer(return_X_y=True)
        np.savez(rows, x=features[400:].astype(np.float32), y=labels[400:])
        files = [xgboost_file(scene.folder), xgboost_file(scene.folder, ".ubj"), lightgbm_file(scene.folder)]
    observed = []
    for file in files:
        run = scene.headrace("convert", file, f"base_{file.suffix[1:]}", f"--data={rows}", "--labels=y")
        assert run.status == 0, run.error
        step = run.step("convert")
        if file.suffix == ".txt":
            at_most(step["differing_rows"], 2 / run.report["rows"] + 1e-9, "rows that differ")
        else:
            at_most(step["largest_difference"], 1e-6, "largest difference")
        assert step["metric"] == run.step("source")["metric"]
        observed.append(f"{file.name} {step['metric']:.4f}")
    return ", ".join(observed)


def estimators(scene: Scene) -> str:
    """5: labels are equal, probabilities agree within 1e-5, and regressors within 1e-6 of the largest value."""
    del scene
    from sklearn.datasets import load_breast_cancer, load_diabetes

    from headrace_toolkit import Data, convert, load

    observed = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind, (features, labels) in (
            ("classifier", load_breast_cancer(return_X_y=True)),
            ("regressor", load_diabetes(return_X_y=True)),
        ):
            x, rows = features.astype(np.float32), len(features) // 2
            for model in _models(kind):
                data = Data(kind, "", {"x": x[rows:]}, labels[rows:])
                line = convert(load(model.fit(x[:rows], labels[:rows])), data).report.lines[1]
                name = type(model[-1] if hasattr(model, "steps") else model).__name__
                assert line.largest_difference is not None
                assert line.agreement in (1.0, None), f"{name}: {line.agreement}"
                at_most(line.largest_difference, 1e-5 if kind == "classifier" else 1e-6 * labels.max(), name)
                observed.append(f"{name} {line.largest_difference:.1g}")
    return ", ".join(observed)


def _models(kind: str) -> list[Any]:
    from sklearn import ensemble, linear_model, neural_network, svm
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind == "regressor":
        return [linear_model.Ridge(), ensemble.HistGradientBoostingRegressor(max_iter=20)]
    return [
        make_pipeline(StandardScaler(), linear_model.LogisticRegression()),
        make_pipeline(StandardScaler(), neural_network.MLPClassifier(max_iter=100, random_state=0)),
        ensemble.RandomForestClassifier(51, random_state=0),
        ensemble.GradientBoostingClassifier(n_estimators=20),
        ensemble.HistGradientBoostingClassifier(max_iter=20),
        make_pipeline(StandardScaler(), svm.SVC()),
    ]
