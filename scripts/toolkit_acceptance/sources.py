"""Checks 4 and 5: boosters and scikit-learn's estimators answer in ONNX as they do themselves."""

import warnings
from typing import Any

import numpy as np

from scripts.toolkit_acceptance.scene import Scene, at_most
from tests.toolkit.test_sklearn import lightgbm_file, xgboost_file


def boosters(scene: Scene) -> str:
    """4: XGBoost within 1e-6; LightGBM but for rows on the edge of a split; `label` batched."""
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
    told = []
    for file in files:
        run = scene.headrace("convert", file, f"base_{file.suffix[1:]}", f"--data={rows}", "--labels=y")
        assert run.status == 0, run.error
        step = run.step("convert")
        if file.suffix == ".txt":
            at_most(step["differing_rows"], 2 / run.report["rows"] + 1e-9, "rows that differ")
        else:
            at_most(step["largest_difference"], 1e-6, "largest difference")
        assert step["metric"] == run.step("source")["metric"]
        told.append(f"{file.name} {step['metric']:.4f}")
    return ", ".join(told)


def estimators(scene: Scene) -> str:
    """5: labels agree, probabilities within 1e-5, regressors within 1e-6 of the largest value."""
    del scene
    from sklearn.datasets import load_breast_cancer, load_diabetes

    from headrace_toolkit import Data, convert, load

    told = []
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
                told.append(f"{name} {line.largest_difference:.1g}")
    return ", ".join(told)


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
