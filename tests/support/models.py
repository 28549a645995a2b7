"""Small ONNX models, each written to a version's folder as `model.onnx`; their results can be checked by hand."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array

Dims = Sequence[int | str | None]

FILE = "model.onnx"
WEIGHTS_FILE = "weights.bin"

FLOAT = TensorProto.FLOAT
INT64 = TensorProto.INT64


def linear(folder: Path, *, columns: int = 4, bias: float = 0.0) -> Path:
    """`y` float [N, 1] = the sum of each row of `x` float [N, columns], plus `bias`, which distinguishes versions."""
    weights = from_array(np.ones((columns, 1), np.float32), "weights")
    offset = from_array(np.full(1, bias, np.float32), "bias")
    nodes = [make_node("MatMul", ["x", "weights"], ["product"]), make_node("Add", ["product", "bias"], ["y"])]
    return _write(folder, nodes, [_value("x", FLOAT, ["N", columns])], [_value("y", FLOAT, ["N", 1])], weights, offset)


def broken(folder: Path) -> Path:
    """A file that is not a model."""
    folder.mkdir(parents=True)
    file = folder / FILE
    file.write_bytes(b"no model")
    return file


def identity(folder: Path, dtype: int = FLOAT, dims: Dims = ("N", 2), *, out: Dims | None = None) -> Path:
    """`y` = `x`, both of an ONNX element type; `out` is the declared shape of `y`, if it differs."""
    outputs = [_value("y", dtype, dims if out is None else out)]
    return _write(folder, [make_node("Identity", ["x"], ["y"])], [_value("x", dtype, dims)], outputs)


def identities(folder: Path, dtypes: Mapping[str, int]) -> Path:
    """For each input, of its ONNX element type, [N, any columns], an equal output with the prefix `out_`."""
    nodes = [make_node("Identity", [name], [f"out_{name}"]) for name in dtypes]
    inputs = [_value(name, dtype, ["N", f"W_{name}"]) for name, dtype in dtypes.items()]
    outputs = [_value(f"out_{name}", dtype, ["N", f"W_{name}"]) for name, dtype in dtypes.items()]
    return _write(folder, nodes, inputs, outputs)


def convolution(folder: Path) -> Path:
    """`y` float [N, 1, 2, 2] = twice `x` float [N, 1, 2, 2], by a convolution."""
    weights = from_array(np.full((1, 1, 1, 1), 2, np.float32), "weights")
    values = [_value(name, FLOAT, ["N", 1, 2, 2]) for name in ("x", "y")]
    return _write(folder, [make_node("Conv", ["x", "weights"], ["y"])], values[:1], values[1:], weights)


def repeated(folder: Path, *, columns: int) -> Path:
    """`y` float [N, columns] = `x` float [N, 1], repeated in each column: a small request with a large answer."""
    weights = from_array(np.ones((1, columns), np.float32), "weights")
    node = make_node("MatMul", ["x", "weights"], ["y"])
    return _write(folder, [node], [_value("x", FLOAT, ["N", 1])], [_value("y", FLOAT, ["N", columns])], weights)


def two_sizes(folder: Path, *, columns: int = 1000) -> Path:
    """`small` float [N, 1] = `x` float [N, 1], and `large` float [N, columns], `x` repeated in each column."""
    weights = from_array(np.ones((1, columns), np.float32), "weights")
    nodes = [make_node("Identity", ["x"], ["small"]), make_node("MatMul", ["x", "weights"], ["large"])]
    outputs = [_value("small", FLOAT, ["N", 1]), _value("large", FLOAT, ["N", columns])]
    return _write(folder, nodes, [_value("x", FLOAT, ["N", 1])], outputs, weights)


def row_sums(folder: Path) -> Path:
    """`y` float [N] = the sum of each row of `x` float [N, W], of any width W."""
    node = make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)
    axes = from_array(np.array([1], np.int64), "axes")
    return _write(folder, [node], [_value("x", FLOAT, ["N", "W"])], [_value("y", FLOAT, ["N"])], axes)


def two_inputs(folder: Path, left: Dims = ("N", 2), right: Dims = ("N", 2)) -> Path:
    """`sum` = `a` + `b` and `difference` = `a` - `b`, all float; both outputs are declared as `left`."""
    nodes = [make_node("Add", ["a", "b"], ["sum"]), make_node("Sub", ["a", "b"], ["difference"])]
    outputs = [_value("sum", FLOAT, left), _value("difference", FLOAT, left)]
    return _write(folder, nodes, [_value("a", FLOAT, left), _value("b", FLOAT, right)], outputs)


def scalar_output(folder: Path) -> Path:
    """`doubled` float [N, 2] = 2 `x`, and `total` float [] = the sum of all of `x` float [N, 2]."""
    nodes = [
        make_node("Add", ["x", "x"], ["doubled"]),
        make_node("ReduceSum", ["x"], ["total"], keepdims=0),
    ]
    outputs = [_value("doubled", FLOAT, ["N", 2]), _value("total", FLOAT, [])]
    return _write(folder, nodes, [_value("x", FLOAT, ["N", 2])], outputs)


def lookup(folder: Path, *, size: int = 10) -> Path:
    """`y` float [N] = 10 times `index` int64 [N]; an index outside -size to size - 1 fails (INVALID_ARGUMENT)."""
    table = from_array(np.arange(size, dtype=np.float32) * 10, "table")
    node = make_node("Gather", ["table", "index"], ["y"], name="lookup")
    return _write(folder, [node], [_value("index", INT64, ["N"])], [_value("y", FLOAT, ["N"])], table)


def positions(folder: Path, *, in_rows: bool = False) -> Path:
    """`where` int64 [2, K] = the K positions of `x` float [N, 3] that are not zero: a shape that depends on the data.

    With `in_rows`, `where` is [K, 2].
    """
    nodes = [make_node("NonZero", ["x"], ["columns" if in_rows else "where"])]
    if in_rows:
        nodes.append(make_node("Transpose", ["columns"], ["where"]))
    outputs = [_value("where", INT64, ["K", 2] if in_rows else [2, "K"])]
    return _write(folder, nodes, [_value("x", FLOAT, ["N", 3])], outputs)


def wide(folder: Path, *, columns: int = 64) -> Path:
    """`y` float [N, columns] = `x` float [N, columns] times weights that are not integers, and a ReLU."""
    values = np.linspace(-1, 1, columns * columns, dtype=np.float32).reshape(columns, columns)
    nodes = [make_node("MatMul", ["x", "weights"], ["product"]), make_node("Relu", ["product"], ["y"])]
    values_in, values_out = _value("x", FLOAT, ["N", columns]), _value("y", FLOAT, ["N", columns])
    return _write(folder, nodes, [values_in], [values_out], from_array(values, "weights"))


def no_inputs(folder: Path) -> Path:
    """`y` float [3] = 0, 1, 2, from no inputs at all."""
    node = make_node("Identity", ["constant"], ["y"])
    return _write(folder, [node], [], [_value("y", FLOAT, [3])], from_array(np.arange(3, dtype=np.float32), "constant"))


def slow(folder: Path, *, steps: int) -> Path:
    """`y` float [N, 1] = `x` float [N, 1] + `steps`, counted up in a loop: each step takes some microseconds."""
    body = make_graph(
        [
            make_node("Identity", ["going"], ["go_on"]),
            make_node("Add", ["before", "one"], ["after"]),
        ],
        "step",
        [_value("step", INT64, []), _value("going", TensorProto.BOOL, []), _value("before", FLOAT, [None, 1])],
        [_value("go_on", TensorProto.BOOL, []), _value("after", FLOAT, [None, 1])],
        [from_array(np.ones(1, np.float32), "one")],
    )
    loop = make_node("Loop", ["steps", "", "x"], ["y"], body=body)
    count = from_array(np.array(steps, np.int64), "steps")
    return _write(folder, [loop], [_value("x", FLOAT, ["N", 1])], [_value("y", FLOAT, ["N", 1])], count)


def external_data(folder: Path, *, columns: int = 512) -> Path:
    """Like `linear` without a bias, with its weights in an external file, `weights.bin`."""
    file = linear(folder, columns=columns)
    onnx.save_model(onnx.load(file), file, save_as_external_data=True, location=WEIGHTS_FILE, size_threshold=1024)
    return file


def sequence_output(folder: Path) -> Path:
    """`y`, a sequence that contains `x` float [N, 2]: not a tensor."""
    kind = onnx.helper.make_sequence_type_proto(onnx.helper.make_tensor_type_proto(FLOAT, ["N", 2]))
    outputs = [onnx.helper.make_value_info("y", kind)]
    return _write(folder, [make_node("SequenceConstruct", ["x"], ["y"])], [_value("x", FLOAT, ["N", 2])], outputs)


def positive(folder: Path) -> Path:
    """`y` = `x` float [N], and `above`, the elements of `x` above zero: declared as [N], whatever their number."""
    nodes = [
        make_node("Identity", ["x"], ["y"]),
        make_node("Greater", ["x", "zero"], ["wanted"]),
        make_node("Compress", ["x", "wanted"], ["above"], axis=0),
    ]
    outputs = [_value("y", FLOAT, ["N"]), _value("above", FLOAT, ["N"])]
    return _write(folder, nodes, [_value("x", FLOAT, ["N"])], outputs, from_array(np.zeros((), np.float32), "zero"))


def row_maxima(folder: Path) -> Path:
    """`y` float [N] = the greatest of each row of `x` float [N, W], of any width W."""
    axes = from_array(np.array([1], np.int64), "axes")
    node = make_node("ReduceMax", ["x", "axes"], ["y"], keepdims=0)
    return _write(folder, [node], [_value("x", FLOAT, ["N", "W"])], [_value("y", FLOAT, ["N"])], axes)


def column_totals(folder: Path) -> Path:
    """`y` float [N, 2] = in every row, the sums of the columns of `x` float [N, 2] over all rows of the batch."""
    axes = from_array(np.array([0], np.int64), "axes")
    nodes = [
        make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=1),
        make_node("Shape", ["x"], ["shape"]),
        make_node("Expand", ["total", "shape"], ["y"]),
    ]
    return _write(folder, nodes, [_value("x", FLOAT, ["N", 2])], [_value("y", FLOAT, ["N", 2])], axes)


def counting(folder: Path) -> Path:
    """`y` = `steps` int64 [N], after counting up to the highest of them: each step takes some microseconds."""
    scalar = _value("before", INT64, [])
    body = make_graph(
        [make_node("Identity", ["going"], ["go_on"]), make_node("Add", ["before", "one"], ["after"])],
        "step",
        [_value("step", INT64, []), _value("going", TensorProto.BOOL, []), scalar],
        [_value("go_on", TensorProto.BOOL, []), _value("after", INT64, [])],
        [from_array(np.array(1, np.int64), "one")],
    )
    nodes = [
        make_node("ReduceMax", ["steps"], ["highest"], keepdims=0),
        make_node("Loop", ["highest", "", "zero"], ["counted"], body=body),
        make_node("Sub", ["counted", "highest"], ["nothing"]),
        make_node("Add", ["steps", "nothing"], ["y"]),
    ]
    zero = from_array(np.array(0, np.int64), "zero")
    return _write(folder, nodes, [_value("steps", INT64, ["N"])], [_value("y", INT64, ["N"])], zero)


def filled(folder: Path) -> Path:
    """`y` float [M] = as many zeros as `x` int64 [1] says."""
    node = make_node("ConstantOfShape", ["x"], ["y"])
    return _write(folder, [node], [_value("x", INT64, [1])], [_value("y", FLOAT, ["M"])])


def kept(folder: Path) -> Path:
    """`y` float [M, 2] = those rows of `x` float [N, 2] whose first value is positive."""
    nodes = [
        make_node("Gather", ["x", "first"], ["firsts"], axis=1),
        make_node("Greater", ["firsts", "zero"], ["chosen"]),
        make_node("Compress", ["x", "chosen"], ["y"], axis=0),
    ]
    first, zero = from_array(np.array(0, np.int64), "first"), from_array(np.array(0, np.float32), "zero")
    return _write(folder, nodes, [_value("x", FLOAT, ["N", 2])], [_value("y", FLOAT, ["M", 2])], first, zero)


def side_by_side(folder: Path, left: Dims = ("N", 2), right: Dims = ("M", 2)) -> Path:
    """`y` float [N, 4] = the rows of `a` and `b`, both float, side by side: their numbers of rows must be equal."""
    node = make_node("Concat", ["a", "b"], ["y"], axis=1)
    inputs = [_value("a", FLOAT, left), _value("b", FLOAT, right)]
    return _write(folder, [node], inputs, [_value("y", FLOAT, ["rows", 4])])


def half_plus_two(folder: Path) -> Path:
    """`y` = `x` / 2 + 2, element by element, both float [N, 1]."""
    constants = [from_array(np.array(number, np.float32), name) for name, number in (("h", 0.5), ("c", 2))]
    nodes = [make_node("Mul", ["x", "h"], ["half"]), make_node("Add", ["half", "c"], ["y"])]
    return _write(folder, nodes, [_value("x", FLOAT, ["N", 1])], [_value("y", FLOAT, ["N", 1])], *constants)


def recurrent(folder: Path, *, operator: str = "LSTM", gates: int = 4) -> Path:
    """`y` float [N, 2] = the last state of a recurrent operator over `x` float [N, T, 3].

    ONNX Runtime crashes on an LSTM or a GRU without rows.
    """
    nodes = [
        make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        make_node(operator, ["steps", "weights", "recurrence"], ["", "state"], hidden_size=2),
        make_node("Squeeze", ["state", "direction"], ["y"]),
    ]
    constants = [
        from_array(np.full((1, 2 * gates, 3), 0.5, np.float32), "weights"),
        from_array(np.full((1, 2 * gates, 2), 0.5, np.float32), "recurrence"),
        from_array(np.array([0], np.int64), "direction"),
    ]
    return _write(folder, nodes, [_value("x", FLOAT, ["N", "T", 3])], [_value("y", FLOAT, ["N", 2])], *constants)


def running_sum(folder: Path) -> Path:
    """`y` = the sums of `x` up to each column, both float [N, M]."""
    axis = from_array(np.array(1, np.int64), "axis")
    values = [_value(name, FLOAT, ["N", "M"]) for name in "xy"]
    return _write(folder, [make_node("CumSum", ["x", "axis"], ["y"])], values[:1], values[1:], axis)


def reversed_rows(folder: Path) -> Path:
    """`y` = `x`, both float [N, M], with the first `length` int64 [N] values of each row reversed."""
    node = make_node("ReverseSequence", ["x", "length"], ["y"], batch_axis=0, time_axis=1)
    inputs = [_value("x", FLOAT, ["N", "M"]), _value("length", INT64, ["N"])]
    return _write(folder, [node], inputs, [_value("y", FLOAT, ["N", "M"])])


def doubled_scalar(folder: Path, *, ranked: bool = True) -> Path:
    """`y` = 2 `x`, both float scalars, or of undeclared rank if not `ranked`."""
    values = [_value(name, FLOAT, []) for name in "xy"]
    file = _write(folder, [make_node("Add", ["x", "x"], ["y"])], values[:1], values[1:])
    if not ranked:
        model = onnx.load(file)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.ClearField("shape")
        onnx.save_model(model, file)
    return file


def believed(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """A model that is batched without a trial."""

    def write(folder: Path) -> Path:
        file = make(folder)
        (folder.parent / "model.toml").write_text("[batching]\nenabled = true\n")
        return file

    return write


def _value(name: str, dtype: int, dims: Dims) -> ValueInfoProto:
    return make_tensor_value_info(name, dtype, list(dims))


def _write(
    folder: Path,
    nodes: list[NodeProto],
    inputs: list[ValueInfoProto],
    outputs: list[ValueInfoProto],
    *constants: TensorProto,
) -> Path:
    graph: GraphProto = make_graph(nodes, "graph", inputs, outputs, list(constants))
    model = make_model(graph, opset_imports=[make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE
    onnx.save_model(model, file)
    return file


def accumulating(folder: Path, *, batched: bool = True) -> Path:
    """`total` float [N, 1] = `before` float [N, 1] + `x` float [N, 1], and `y` float [N, 1] = 2 `total`."""
    dims: Dims = ("N", 1) if batched else (1, 1)
    nodes = [make_node("Add", ["before", "x"], ["total"]), make_node("Add", ["total", "total"], ["y"])]
    inputs = [_value("x", FLOAT, dims), _value("before", FLOAT, dims)]
    return _write(folder, nodes, inputs, [_value("y", FLOAT, dims), _value("total", FLOAT, dims)])
