"""MLflow's own client, run by MLflow's Python: registers a model file, or moves the alias; prints the version.

python mlflow_client.py publish FILE
python mlflow_client.py alias VERSION
"""

import sys
import tempfile
from pathlib import Path

import mlflow
from mlflow.tracking import MlflowClient

NAME, ALIAS = "iris", "champion"


def publish(file: Path) -> str:
    """Registers a folder with the file as model.onnx, as a new version, and moves the alias to it."""
    client = MlflowClient()
    if not client.search_registered_models(f"name = '{NAME}'"):
        client.create_registered_model(NAME)
    with mlflow.start_run() as run, tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.onnx").symlink_to(file)
        mlflow.log_artifacts(folder, "model")
        version = client.create_model_version(NAME, f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias(NAME, ALIAS, version.version)
    return str(version.version)


if __name__ == "__main__":
    what, argument = sys.argv[1:]
    if what == "publish":
        print(publish(Path(argument)))
    else:
        MlflowClient().set_registered_model_alias(NAME, ALIAS, argument)
        print(argument)
