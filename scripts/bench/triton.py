"""A Triton to compare headrace with: how it is found, and its repository with one model.

It is either a `tritonserver` that has the ONNX Runtime backend, or a Python in which nvidia-pytriton and onnxruntime
are installed: the wheel has a `tritonserver` with only the Python backend, which then runs the model with ONNX Runtime.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .cases import Case

VARIABLE = "HEADRACE_BENCH_TRITON"
"""The environment variable with the path of either one, for a run without the flag."""

_FIND = """
import glob, os, sys, sysconfig, pytriton, onnxruntime
package = os.path.dirname(pytriton.__file__)
libraries = os.path.join(os.path.dirname(package), "nvidia_pytriton.libs")
print(package, libraries, sysconfig.get_config_var("LIBDIR"), sys.base_prefix, sysconfig.get_path("purelib"), sep="\\n")
print("%d.%d" % sys.version_info[:2])
"""

_MODEL = """
import sys

sys.path.insert(0, {packages!r})
import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = {threads}
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession({model!r}, options)

    def execute(self, requests):
        arrays = [triton.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        (y,) = self.session.run(["y"], {{"x": joined}})
        answers, start = [], 0
        for array in arrays:
            part = triton.Tensor("y", y[start : start + len(array)])
            answers.append(triton.InferenceResponse([part]))
            start += len(array)
        return answers
"""

_CONFIG = """
backend: "{backend}"
max_batch_size: {rows}
input [{{ name: "x" data_type: TYPE_FP32 dims: [{row}] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [{outputs}] }}]
instance_group [{{ kind: KIND_CPU count: 1 }}]
dynamic_batching {{ max_queue_delay_microseconds: {delay} }}
parameters [
  {{ key: "intra_op_thread_count" value: {{ string_value: "{threads}" }} }},
  {{ key: "inter_op_thread_count" value: {{ string_value: "1" }} }}
]
"""


@dataclass(frozen=True)
class Triton:
    """A Triton that can be started.

    Attributes:
        binary: `tritonserver`.
        backend: The backend that runs the model: `onnxruntime`, or `python` with ONNX Runtime in it.
        packages: The folder in which the Python backend finds its packages; empty for the other backend.
        backends: The folder of its backends; None means its default.
        environment: Variables to add to this process's environment.
    """

    binary: Path
    backend: str
    packages: str = ""
    backends: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, case: Case, base_path: Path, ports: Sequence[str]) -> Sequence[str]:
        """Returns the command that starts it with the model of a case.

        Args:
            case: The case, with its model's shapes and the batching, which is also headrace's.
            base_path: The folder with version 1 of the model.
            ports: The flags that select its open ports.
        """
        repository = self._repository(case, base_path)
        backends = [] if self.backends is None else [f"--backend-directory={self.backends}"]
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        addresses = ["--grpc-address=127.0.0.1", "--http-address=127.0.0.1", "--allow-metrics=false"]
        command = [str(self.binary), f"--model-repository={repository}", *backends, *addresses, *ports]
        return ["env", *variables, *command] if variables else command

    def _repository(self, case: Case, base_path: Path) -> Path:
        repository = base_path.with_name("triton")
        model = repository / case.name
        if not model.exists():
            (model / "1").mkdir(parents=True)
            file = base_path / "1" / "model.onnx"
            shutil.copy(file, model / "1")
            threads = case.intra_op_threads
            if self.backend == "python":
                text = _MODEL.format(packages=self.packages, threads=threads, model=str(file))
                (model / "1" / "model.py").write_text(text)
            row = ", ".join(map(str, case.row))
            named = {"backend": self.backend, "rows": case.max_batch_size, "row": row, "outputs": case.outputs}
            config = _CONFIG.format(**named, delay=case.batch_timeout_micros, threads=threads)
            (model / "config.pbtxt").write_text(config)
        return repository


def find(named: str | None, folder: Path) -> Triton | None:
    """Returns the Triton that a flag or the variable names; if there is none, prints the reason in one line.

    Args:
        named: The value of the flag; None if it is not set.
        folder: A folder in which the Python backend of a wheel's Triton is assembled for its Python version.
    """
    path = named or os.environ.get(VARIABLE)
    if path is None:
        print(f"without Triton: neither --triton nor {VARIABLE} names one", file=sys.stderr)
        return None
    if Path(path).name == "tritonserver":
        return Triton(Path(path), "onnxruntime")
    found = subprocess.run([path, "-c", _FIND], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        print(f"without Triton: {path} has no nvidia-pytriton and onnxruntime: {found.stderr[-200:]}", file=sys.stderr)
        return None
    return _of_wheel(found.stdout.splitlines(), folder)


def _of_wheel(said: Sequence[str], folder: Path) -> Triton:
    package, libraries, python_libraries, prefix, packages, version = said
    server = Path(package) / "tritonserver"
    backend = folder / "triton-backends" / "python"
    if not backend.exists():
        shutil.copytree(server / "backends" / "python", backend)
        shutil.copy(server / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    (backend / "triton_python_backend_stub").chmod(0o755)
    environment = {"PYTHONHOME": prefix, "LD_LIBRARY_PATH": f"{libraries}:{python_libraries}"}
    return Triton(server / "bin" / "tritonserver", "python", packages, backend.parent, environment)
