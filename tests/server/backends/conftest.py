"""Models for TensorFlow and TFLite, and servers that run them in the environment that has both."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.once import filled_once
from tests.support.running import ServerProcess

ServeTensorflow = Callable[..., ServerProcess]

HERE = Path(__file__).parent
NEEDED = "import ai_edge_litert, grpc_health, grpc_reflection"
HEADRACE = "from headrace_server.commands.headrace import main; raise SystemExit(main())"


@pytest.fixture(scope="session")
def tensorflow_server_python(tensorflow_python: Path) -> Path:
    """The Python of an environment in which TensorFlow models can be served."""
    if subprocess.run([tensorflow_python, "-c", NEEDED], capture_output=True, check=False).returncode:
        pytest.skip(f"{tensorflow_python} lacks headrace[tensorflow,tflite]: run scripts/install-tensorflow")
    return tensorflow_python


@pytest.fixture(scope="session")
def tensorflow_models(tensorflow_server_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the models that write_tensorflow_models.py writes."""

    def fill(folder: Path) -> None:
        script = HERE / "write_tensorflow_models.py"
        run = subprocess.run([tensorflow_server_python, script, folder], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr

    return filled_once(tmp_path_factory, "tensorflow", fill)


@pytest.fixture(scope="module")
def serve_tensorflow(tensorflow_server_python: Path) -> Iterator[ServeTensorflow]:
    """Starts the command in TensorFlow's environment: `serve_tensorflow(base_path, *flags)`."""
    with ExitStack() as stack:

        def serve(base_path: Path, *flags: str) -> ServerProcess:
            process = ServerProcess(base_path, *flags, headrace=(tensorflow_server_python, "-c", HEADRACE))
            stack.callback(process.close)
            return process

        yield serve
