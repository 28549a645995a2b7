"""The cases of ONNX's own backend tests, which the package `onnx` generates: models for nearly every operator."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from headrace_batching import BatchThreads, Options
from headrace_batching.task import Array, Arrays
from headrace_server.backends.base import BackendOptions
from headrace_server.config.isolation import IsolationOptions
from headrace_server.errors import ServingError
from headrace_server.metrics.catalogue import Metrics
from headrace_server.models.loader import Loader

KINDS = ("simple", "pytorch-converted", "pytorch-operator")

Made = tuple[str, onnx.ModelProto, Arrays]

IN_PROCESS = IsolationOptions(workers=0)
"""Starts no process for a model or its trial: hundreds of them take minutes to start."""

RTOL, ATOL = 1e-3, 1e-5

_NO_JSON = "TF Serving's JSON has no such type"
_NO_PROTO = "TensorProto has no such type: sequences, optionals, complex or 4-bit numbers"
_EMPTY = "arrays without elements are not passed to ONNX Runtime, which ends the process on some of them"

KNOWN: Mapping[str, str] = {
    "which a tensor cannot contain": _NO_PROTO,
    "is not a tensor of a type that a request can contain": _NO_PROTO,
    "left out": _NO_PROTO,
    "Expected: at least 1": _EMPTY,
    "the request has no rows": _EMPTY,
    **{f" to type: {kind}": _NO_JSON for kind in ("half", "bfloat16", "uint16", "uint32", "uint64", "int8")},
    "Failed to get input map": "TF Serving's REST API takes no request without inputs",
    "no elements": "JSON does not show the shape of an array without elements",
}
"""Why a case may fail, by a part of its error."""


@dataclass(frozen=True)
class Case:
    """A model with one set of inputs, and the answers of a bare session."""

    name: str
    model: onnx.ModelProto
    inputs: Arrays
    answers: Arrays


@dataclass
class Outcome:
    """The results of cases: how many passed, and which failed and why."""

    passed: int = 0
    known: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, reason: str) -> None:
        """Records a case; an empty reason is a pass."""
        known = next((why for part, why in KNOWN.items() if part in reason), "")
        if not reason:
            self.passed += 1
        elif known:
            self.known[known] += 1
        else:
            self.failed[name] = reason


def cases(*, nodes: bool) -> Iterator[Case]:
    """The cases that a bare session can run, without those whose answers are random.

    Args:
        nodes: Whether to include a case for each operator, type and attribute, which takes half a minute to generate;
            otherwise only the models that the package ships, of some operators each.
    """
    for name, model, inputs in made(nodes=nodes):
        try:
            session = _session(model)
            answers = _answers(session, inputs)
            again = _answers(session, inputs)
        except Exception:
            continue  # a bare session cannot run these, either
        if answers is not None and again is not None and not difference(answers, again):
            yield Case(name, model, inputs, answers)


def made(*, nodes: bool) -> Iterator[Made]:
    """The models, each with inputs; `nodes` as for `cases`."""
    return chain(_shipped(), _nodes() if nodes else ())


def _nodes() -> Iterator[Made]:
    from onnx.backend.test.case.node import collect_testcases  # the import generates the cases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: Any = collect_testcases(None)
    for case in made:
        inputs = [value.name for value in case.model.graph.input]
        yield case.name, case.model, dict(zip(inputs, case.data_sets[0][0], strict=False))


def _shipped() -> Iterator[Made]:
    data = Path(onnx.__file__).parent / "backend" / "test" / "data"
    for folder in sorted(folder for kind in KINDS for folder in (data / kind).iterdir()):
        model = onnx.load(folder / "model.onnx")
        names = [value.name for value in model.graph.input]
        files = sorted((folder / "test_data_set_0").glob("input_*.pb"))
        try:
            arrays = [numpy_helper.to_array(onnx.load_tensor(str(file))) for file in files]
        except Exception:
            continue  # a sequence
        yield folder.name, model, dict(zip(names, arrays, strict=False))


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _answers(session: ort.InferenceSession, inputs: Arrays) -> Arrays | None:
    """The answers of a session; None if one of them is not a tensor."""
    values = session.run(None, dict(inputs))
    if not all(isinstance(value, np.ndarray) for value in values):
        return None
    return {output.name: value for output, value in zip(session.get_outputs(), values, strict=True)}


def difference(got: Arrays, expected: Arrays) -> str:
    """How answers differ from a bare session's; empty if they do not."""
    for name, want in expected.items():
        if name not in got:
            return f"output {name} is missing"
        have = got[name]
        if have.shape != want.shape:
            return f"output {name} has the shape {have.shape}, not {want.shape}"
        if want.dtype == object:
            same = [_bytes(item) for item in have.flat] == [_bytes(item) for item in want.flat]
        else:
            same = np.allclose(have.astype(np.float64), want.astype(np.float64), RTOL, ATOL, equal_nan=True)
        if not same:
            return f"output {name} has other values"
    return ""


def _bytes(item: Any) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()


def write(case: Case, base_path: Path) -> None:
    """Writes a case's model as version 1."""
    folder = base_path / case.name / "1"
    folder.mkdir(parents=True)
    onnx.save_model(case.model, folder / "model.onnx")


def served(every: Sequence[Case], base_path: Path, outcome: Outcome) -> list[Case]:
    """The cases whose models load; the reasons of the others are recorded."""
    loader = Loader(
        BackendOptions(), BatchThreads(1), Options(), Metrics(), isolation=IN_PROCESS, per_model_batching=False
    )
    good = []
    for case in every:
        write(case, base_path)
        try:
            loader.load(case.name, 1, base_path / case.name / "1").close()
        except ServingError as error:
            outcome.take(case.name, error.message)
        else:
            good.append(case)
    return good


def sendable(inputs: Arrays) -> dict[str, Array]:
    """Inputs as in a request: strings as bytes."""
    return {alias: np.array(array, object) if array.dtype.kind in "SU" else array for alias, array in inputs.items()}


def compare(every: Sequence[Case], predict: Callable[[Case], Arrays], outcome: Outcome) -> None:
    """Records the results of cases sent one after the other; `predict` raises if one is refused."""
    for case in every:
        try:
            outcome.take(case.name, difference(predict(case), case.answers))
        except Exception as error:
            details = error.details() if isinstance(error, grpc.Call) else str(error)
            outcome.take(case.name, details or repr(error))
