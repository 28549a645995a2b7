"""scikit-learn estimators: from a function, a .skops file, or a pickle that the user trusts."""

from pathlib import Path
from typing import Any

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_server.backends.signature import TensorSpec
from headrace_toolkit.errors import ToolkitError, first_line, require
from headrace_toolkit.sources.base import Origin, Source, SourceOptions
from headrace_toolkit.sources.converted import converted, one_table, table_of
from headrace_toolkit.sources.files import sha256_of
from headrace_toolkit.sources.pickles import refuse_untrusted
from headrace_toolkit.steps.quiet import quietly

OPSETS = {"": 17, "ai.onnx.ml": 3}
"""The opset that skl2onnx converts to: old enough for any ONNX Runtime that headrace accepts."""

_NO_ZIPMAP = "Option 'zipmap' not in"
_PROTOBUF_7 = "Expected an int, got a boolean"


def read(file: Path, options: SourceOptions) -> Source:
    """A .skops file, which may contain only known types.

    Raises:
        ToolkitError: The file contains types that skops does not know, which the text names, or cannot be read.
    """
    skops = require("skops.io", "a .skops file", "sklearn")
    try:
        unknown = skops.get_untrusted_types(file=file)
        if unknown:
            raise ToolkitError(f"{file}: contains types that might run code: {', '.join(unknown)}")
        model = skops.load(file, trusted=[])
    except ToolkitError:
        raise
    except Exception as error:
        raise ToolkitError(f"{file} is not a skops file that can be loaded: {first_line(error)}") from error
    return of_estimator(model, Origin(name=file.name, kind="", framework="", sha256=sha256_of(file)), options)


def read_pickle(file: Path, options: SourceOptions) -> Source:
    """Loads a pickle or a joblib file if the user trusts it, since loading one runs its author's code.

    Raises:
        ToolkitError: The user does not trust it, or it cannot be loaded.
    """
    from headrace_toolkit.sources.auto import of_object

    refuse_untrusted(file, options)
    joblib = require("joblib", "a pickle", "sklearn")
    try:
        model = joblib.load(file)
    except Exception as error:
        raise ToolkitError(f"{file} cannot be loaded: {type(error).__name__}: {first_line(error)}") from error
    return of_object(model, Origin(name=file.name, kind="", framework="", sha256=sha256_of(file)), options)


def of_estimator(model: Any, origin: Origin, options: SourceOptions) -> Source:
    """A fitted estimator or pipeline, converted by skl2onnx.

    Raises:
        ToolkitError: The estimator is not fitted, or skl2onnx does not support it.
    """
    sklearn = require("sklearn", "scikit-learn models", "sklearn")
    origin = Origin(
        name=origin.name, kind="sklearn", framework=f"scikit-learn {sklearn.__version__}", sha256=origin.sha256
    )
    columns = getattr(model, "n_features_in_", None)
    if columns is None:
        raise ToolkitError(f"{origin.name}: the {type(model).__name__} is not fitted")
    inputs = dict(options.inputs) if len(options.inputs) > 1 else None
    if inputs is None:
        spec = one_table(origin, options, columns)
        inputs = {spec.name: spec}
    graph = _convert(model, origin, inputs)
    classes = getattr(model, "classes_", None)
    _write_out_scalers(graph)
    mended = _mend_scores(model, graph)
    labels = tuple(map(str, classes)) if isinstance(classes, np.ndarray) and classes.ndim == 1 else ()
    return converted(
        origin,
        graph,
        _answer(model, graph, named=len(inputs) > 1),
        options,
        notes=_notes(model) + mended,
        labels=labels,
    )


def _convert(model: Any, origin: Origin, inputs: dict[str, TensorSpec]) -> Any:
    to_onnx = require("skl2onnx", "scikit-learn models", "sklearn").to_onnx
    types = require("skl2onnx.common.data_types", "scikit-learn models", "sklearn")
    kinds = {"f4": types.FloatTensorType, "f8": types.DoubleTensorType, "i8": types.Int64TensorType,
             "O": types.StringTensorType, "b1": types.BooleanTensorType, "i4": types.Int32TensorType}  # fmt: skip
    declared = []
    for name, spec in inputs.items():
        kind = kinds.get(spec.array_dtype.str[1:])
        if kind is None:
            raise ToolkitError(f"{origin.name}: scikit-learn's models do not take {spec.array_dtype} as input {name}")
        declared.append((name, kind(list(spec.shape))))

    def convert(options: Any) -> Any:
        with quietly(f"{origin.name}: the conversion of {type(model).__name__}"):
            return to_onnx(model, initial_types=declared, options=options, target_opset=OPSETS)

    try:
        # By default probabilities are a list of dictionaries, which is not a tensor.
        return convert({id(model): {"zipmap": False}} if hasattr(model, "classes_") else None)
    except ToolkitError as error:
        if _NO_ZIPMAP in str(error.__cause__):
            return convert(None)
        if _PROTOBUF_7 in str(error.__cause__):
            raise ToolkitError(f"{origin.name}: skl2onnx needs an older protobuf: pip install 'protobuf<7'") from error
        raise


def _answer(model: Any, graph: Any, *, named: bool) -> Any:
    """scikit-learn's own answers, in the order of the graph's outputs."""
    count = len(graph.graph.output)

    def answer(inputs: Arrays) -> list[Array]:
        rows = _frame(inputs) if named else _of_fitted_dtype(model, table_of(inputs))
        if not hasattr(model, "predict"):
            return [np.asarray(model.transform(rows), np.float32)]
        predicted = np.asarray(model.predict(rows))
        if predicted.dtype.kind in "US":
            predicted = predicted.astype(object)
        if count == 1:
            return [
                predicted.reshape(len(predicted), -1).astype(np.float32) if predicted.dtype.kind == "f" else predicted
            ]
        return [predicted, *_scores(model, rows, _columns(graph))][:count]

    return answer


def _write_out_scalers(graph: Any) -> None:
    """Replaces each Scaler by a subtraction and a product, since shape inference stops at a Scaler."""
    helper = require("onnx.helper", "scikit-learn models", "sklearn")
    from_array = require("onnx.numpy_helper", "scikit-learn models", "sklearn").from_array
    nodes = []
    for node in graph.graph.node:
        if node.op_type != "Scaler":
            nodes.append(node)
            continue
        values = {attribute.name: np.array(attribute.floats, np.float32) for attribute in node.attribute}
        at = f"{node.output[0]}.scaler"
        graph.graph.initializer.extend(from_array(values[name], f"{at}.{name}") for name in ("offset", "scale"))
        nodes.append(helper.make_node("Sub", [node.input[0], f"{at}.offset"], [at], name=f"{at}.sub"))
        nodes.append(helper.make_node("Mul", [at, f"{at}.scale"], [node.output[0]], name=f"{at}.mul"))
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def _mend_scores(model: Any, graph: Any) -> tuple[str, ...]:
    """Swaps the two columns of a binary SVC without probabilities, which skl2onnx has in the wrong order."""
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    if type(last).__name__ not in ("SVC", "NuSVC") or hasattr(model, "predict_proba") or len(last.classes_) != 2:
        return ()
    helper = require("onnx.helper", "scikit-learn models", "sklearn")
    output = graph.graph.output[1]
    for node in graph.graph.node:
        node.output[:] = [f"{name}.reversed" if name == output.name else name for name in node.output]
        node.input[:] = [f"{name}.reversed" if name == output.name else name for name in node.input]
    graph.graph.node.append(helper.make_node("Neg", [f"{output.name}.reversed"], [output.name], name="mended_scores"))
    return (f"skl2onnx had swapped the scores of the two classes in {output.name}: corrected",)


def _columns(graph: Any) -> int:
    """The number of scores in a row of the second output; 0 if it is not declared."""
    dims = graph.graph.output[1].type.tensor_type.shape.dim
    return int(dims[1].dim_value) if len(dims) > 1 else 0


def _scores(model: Any, rows: Any, columns: int) -> list[Array]:
    """The second output of a classifier or a clustering, with as many columns as the graph has."""
    for name in ("predict_proba", "decision_function", "transform"):
        if hasattr(model, name):
            scores = np.asarray(getattr(model, name)(rows), np.float32)
            if scores.ndim == 1:
                scores = scores[:, None] if columns == 1 else np.stack([-scores, scores], axis=1)
            return [scores]
    return []


def _of_fitted_dtype(model: Any, table: Array) -> Array:
    """A table for k-means, which accepts only the dtype that it was fitted on."""
    centres = getattr(model, "cluster_centers_", None)
    return table if centres is None else table.astype(centres.dtype)


def _frame(inputs: Arrays) -> Any:
    """Columns by name, for a pipeline that was fitted on named columns."""
    pandas = require("pandas", "pipelines of named columns", "sklearn")
    return pandas.DataFrame({name: array.reshape(len(array)) for name, array in inputs.items()})


def _notes(model: Any) -> tuple[str, ...]:
    parts = [model, *(step for _, step in getattr(model, "steps", ()))]
    if any("Neighbors" in type(part).__name__ for part in parts):
        return ("k-nearest neighbours: the ONNX model takes 3 to 5 times as long as scikit-learn's own",)
    return ()
