"""Writes the models for tests of TensorFlow and TFLite, each as version `1`, into the given folder."""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flatbuffers
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow.python.saved_model.loader_impl import SavedModelLoader

from headrace_protos import SignatureDefMap

METADATA = "signature_defs_metadata"
FIVE = tf.constant([5.0])


def exported(*inputs: Any) -> Callable[[Any], Any]:
    """Makes a graph from a method, for inputs with these specs."""
    return lambda function: tf.function(function, input_signature=inputs)


class Many(tf.Module):  # type: ignore[misc]  # TensorFlow's types are not known
    """A module with one signature for each test's purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = tf.Variable([[1.0], [10.0]])

    @exported(tf.TensorSpec([None, 1], tf.float32, name="x"))
    def half_plus_two(self, x: Any) -> Mapping[str, Any]:
        return {"y": x * 0.5 + 2.0}

    @exported(tf.TensorSpec([None, 2], tf.float32, name="x"))
    def linear(self, x: Any) -> Mapping[str, Any]:
        return {"y": tf.matmul(x, self.weights)}

    @exported(tf.TensorSpec([None], tf.string, name="text"))
    def upper(self, text: Any) -> Mapping[str, Any]:
        return {"upper": tf.strings.upper(text)}

    @exported(tf.TensorSpec([None], tf.string, name="inputs"))
    def parse(self, inputs: Any) -> Mapping[str, Any]:
        features = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})
        return {"outputs": features["x"] * 0.5 + 2.0}

    @exported(tf.TensorSpec([None], tf.float32, name="b"), tf.TensorSpec([None], tf.float32, name="a"))
    def subtract(self, b: Any, a: Any) -> Mapping[str, Any]:
        return {"difference": a - b}

    @exported(tf.TensorSpec([None], tf.int64, name="x"))
    def small(self, x: Any) -> Mapping[str, Any]:
        return {"same": x, "small": tf.debugging.check_numerics(1.0 / tf.cast(100 - x, tf.float32), "too large")}

    @exported(tf.TensorSpec([None], tf.float32, name="x"), tf.TensorSpec([None], tf.float32, name="by"))
    def shift(self, x: Any, by: Any = FIVE) -> Mapping[str, Any]:
        return {"shifted": x + by}

    @exported(tf.TensorSpec([None], tf.float32, name="x"), tf.TensorSpec([], tf.float32, name="k"))
    def total(self, x: Any, k: Any) -> Mapping[str, Any]:
        return {"total": tf.reduce_sum(x) * k}

    @exported(tf.TensorSpec([None, 1], tf.float32, name="x"))
    def rank(self, x: Any) -> Mapping[str, Any]:
        return {"part": tf.nn.softmax(x, axis=0)}

    @exported(tf.TensorSpec([None, 2], tf.float32, name="x"))
    def weigh(self, x: Any) -> Mapping[str, Any]:
        return {"part": tf.nn.softmax(x, axis=-1)}


def write_many(folder: Path) -> None:
    many = Many()
    names = ["linear", "upper", "parse", "subtract", "small", "shift", "total", "rank", "weigh"]
    signatures = {"serving_default": many.half_plus_two, **{name: getattr(many, name) for name in names}}
    tf.saved_model.save(many, str(folder), signatures=signatures)
    definitions = SavedModelLoader(str(folder)).get_meta_graph_def_from_tags(["serve"]).signature_def
    written = SignatureDefMap()
    for name, definition in definitions.items():
        written.signature_def[name].ParseFromString(definition.SerializeToString())
    (folder.parent / "signatures").write_bytes(written.SerializeToString())


def write_tagged(folder: Path) -> None:
    """Writes two graphs as a text file: y = 2 x + 1, tagged `serve`, and y = 3 x + 1, tagged `serve` and `treble`."""
    builder = tf.compat.v1.saved_model.Builder(str(folder))
    for tags, factor in ((["serve"], 2.0), (["serve", "treble"], 3.0)):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            x = tf.compat.v1.placeholder(tf.float32, name="x")
            offset = tf.compat.v1.get_variable("offset", initializer=1.0)
            session.run(offset.initializer)
            signature = tf.compat.v1.saved_model.predict_signature_def({"x": x}, {"y": x * factor + offset})
            add = builder.add_meta_graph if factor > 2.0 else builder.add_meta_graph_and_variables
            add(*(() if factor > 2.0 else (session,)), tags, {"serving_default": signature})
    builder.save(as_text=True)


def write_tflite(folder: Path, *, signature: bool) -> None:
    """`y` float [N, 1] = `x` float [N, 2] times [[1], [10]], and `is_abc` bool [N] of `text` string [N]."""

    @exported(tf.TensorSpec([None, 2], tf.float32), tf.TensorSpec([None], tf.string))
    def function(x: Any, text: Any) -> Mapping[str, Any]:
        return {"y": tf.matmul(x, [[1.0], [10.0]]), "is_abc": tf.equal(text, "abc")}

    content = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()]).convert()
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(with_signature(content) if signature else content)


class Total(tf.Module):  # type: ignore[misc]  # as above
    """`y` float [1, 1] = the sum of all `x` float [1, 1] of this run, and of earlier runs whose state was kept."""

    def __init__(self) -> None:
        self.total = tf.Variable(0.0)

    @exported(tf.TensorSpec([1, 1], tf.float32, name="x"))
    def add(self, x: Any) -> Mapping[str, Any]:
        return {"y": tf.zeros_like(x) + self.total.assign_add(tf.reduce_sum(x))}


def write_stateful_tflite(folder: Path) -> None:
    """Writes a Total that keeps its sum in a variable between runs."""
    total = Total()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([total.add.get_concrete_function()], total)
    converter.experimental_enable_resource_variables = True
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(converter.convert())


def write_tflite_with_variable_tensors(folder: Path) -> None:
    """TFLite's own LSTM, whose state is in tensors marked as variable: `y` [1, 4] of `x` [1, 3, 2]."""
    model = tf.keras.Sequential([tf.keras.Input((3, 2), batch_size=1), tf.keras.layers.LSTM(4)])
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(converter.convert())


def write_tflite_three(folder: Path, saved: Path) -> None:
    """Three outputs of `x` float [N, 2], named as in a converted SavedModel: equal up to the colon."""
    module = tf.Module()
    module.three = exported(tf.TensorSpec([None, 2], tf.float32, name="x"))(
        lambda x: {"first": x * 2.0, "second": x * 3.0, "third": x * 5.0}
    )
    tf.saved_model.save(module, str(saved), signatures=module.three)
    content = tf.lite.TFLiteConverter.from_saved_model(str(saved)).convert()
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(content)


def write_tflite_ranked(folder: Path) -> None:
    """Writes a softmax over the rows of `x` float [N, 2]."""
    function = exported(tf.TensorSpec([None, 2], tf.float32))(lambda x: tf.nn.softmax(x, axis=0))
    content = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()]).convert()
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(content)


def write_tflite_positive(folder: Path) -> None:
    """Writes the positions of the elements of `x` float [N] that are positive."""
    function = exported(tf.TensorSpec([None], tf.float32, name="x"))(lambda x: tf.where(x > 0))
    content = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()]).convert()
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(content)


def write_tflite_filled(folder: Path) -> None:
    """Writes as many ones as `x` int32 [1] says."""
    function = exported(tf.TensorSpec([1], tf.int32, name="x"))(lambda x: tf.fill(x, 1.0))
    content = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()]).convert()
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(content)


def write_tflite_counting(folder: Path) -> None:
    """Writes a loop that counts to `x` int32 []."""
    counting = exported(tf.TensorSpec([], tf.int32, name="x"))(
        lambda x: tf.while_loop(lambda count: count < x, lambda count: [count + 1], [tf.constant(0)])[0]
    )
    content = tf.lite.TFLiteConverter.from_concrete_functions([counting.get_concrete_function()]).convert()
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(content)


def write_tflite_widened(folder: Path) -> None:
    """Writes `x` float [N, 2] with two columns of zeros, whose number of rows is taken from the shape of `x`."""
    function = exported(tf.TensorSpec([None, 2], tf.float32, name="x"))(
        lambda x: tf.concat([x, tf.fill([tf.shape(x)[0], 2], 0.0)], 1)
    )
    content = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()]).convert()
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(content)


def count_to(end: Any) -> Any:
    """A loop that counts to `end`."""
    return tf.while_loop(lambda count: count < end, lambda count: [count + 1], [tf.constant(0)])[0]


NUMBER = tf.TensorSpec([], tf.int32, name="x")
NUMBERS = tf.TensorSpec([None], tf.int32, name="x")
TEXTS = tf.TensorSpec([None], tf.string, name="x")
ROWS = tf.TensorSpec([None, 2], tf.float32, name="x")

BOUNDED_BY_VALUES: Mapping[str, tuple[Any, Callable[[Any], Any]]] = {
    "filled": (NUMBERS, lambda x: tf.fill(x, 1.0)),
    "repeated": (NUMBER, lambda x: tf.tile([1.0], [x])),
    "filled_in_a_branch": (NUMBER, lambda x: tf.cond(x > 3, lambda: tf.fill([x], 1.0), lambda: tf.ones([1]))),
    "filled_in_a_loop": (NUMBER, lambda x: tf.map_fn(lambda n: tf.reduce_sum(tf.fill([n * x], 1)), tf.range(2))),
    "filled_after_a_loop": (NUMBERS, lambda x: tf.fill([tf.map_fn(lambda n: n + 1, x)[0]], 1.0)),
    "lists": (TEXTS, lambda x: tf.strings.split(x).to_tensor()),
    "image": (tf.TensorSpec([], tf.string, name="x"), tf.io.decode_png),
    "counting": (NUMBER, count_to),
    "counting_in_a_branch": (NUMBER, lambda x: tf.cond(x > 3, lambda: count_to(x), lambda: x)),
}
"""Functions whose runs need any amount of memory or time on some values, each with its input."""

BOUNDED_BY_SHAPES: Mapping[str, tuple[Any, Callable[[Any], Any]]] = {
    "widened": (ROWS, lambda x: tf.concat([x, tf.fill([tf.shape(x)[0], 2], 0.0)], 1)),
    "mapped": (ROWS, lambda x: tf.map_fn(lambda row: row * 2, x)),
    "counting_rows": (ROWS, lambda x: tf.cast(count_to(tf.shape(x)[0]), tf.float32) + x),
    "one_hot": (ROWS, lambda x: tf.one_hot(tf.argmax(x, 1), 3)),
    "looked_up": (TEXTS, lambda x: tf.strings.to_hash_bucket_fast(tf.strings.upper(x), 10)),
}
"""Functions whose runs are bounded by the size of a request."""


def named_y(function: Callable[[Any], Any], x: Any) -> Mapping[str, Any]:
    return {"y": function(x)}


def write_bounded(folder: Path) -> None:
    for name, (spec, function) in {**BOUNDED_BY_VALUES, **BOUNDED_BY_SHAPES}.items():
        module = tf.Module()
        module.function = exported(spec)(partial(named_y, function))
        tf.saved_model.save(module, str(folder / name / "1"), signatures=module.function)


def write_counting_as_in_tensorflow_1(folder: Path) -> None:
    """Writes a loop whose operators are in the graph of the model, not in functions."""
    builder = tf.compat.v1.saved_model.Builder(str(folder))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.disable_control_flow_v2()
        x = tf.compat.v1.placeholder(tf.int32, [], name="x")
        signature = tf.compat.v1.saved_model.predict_signature_def({"x": x}, {"y": count_to(x)})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        tf.compat.v1.enable_control_flow_v2()
    builder.save()


class Bytes(str):
    """A flexbuffer string of arbitrary bytes, not only of UTF-8, as the C++ library writes it."""

    def __new__(cls, content: bytes) -> "Bytes":
        made = super().__new__(cls)
        made.content = content
        return made

    content: bytes

    def encode(self, *_: str) -> bytes:
        return self.content


def with_signature(content: bytes) -> bytes:
    """The same model with a SignatureDef in its metadata, under other aliases."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    graph = model.subgraphs[0]
    definition = SignatureDef(method_name="tensorflow/serving/predict")
    for infos, numbers in ((definition.inputs, graph.inputs), (definition.outputs, graph.outputs)):
        for number in numbers:
            tensor = graph.tensors[number]
            alias = {schema.TensorType.FLOAT32: "number", schema.TensorType.STRING: "text"}.get(tensor.type, "is_abc")
            info = infos[alias]
            info.name = tensor.name.decode().partition(":")[0] + ":0"
            info.dtype = {"number": 1, "text": 7, "is_abc": 10}[alias]
            info.tensor_shape.dim.add(size=-1)
            for size in tensor.shape[1:]:
                info.tensor_shape.dim.add(size=size)
    model.buffers.append(schema.BufferT())
    model.buffers[-1].data = list(flexbuffers.Dumps({"named": Bytes(definition.SerializeToString())}))
    model.metadata = [*(model.metadata or []), schema.MetadataT()]
    model.metadata[-1].name, model.metadata[-1].buffer = METADATA, len(model.buffers) - 1
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


if __name__ == "__main__":
    base = Path(sys.argv[1])
    write_many(base / "many" / "1")
    write_tagged(base / "tagged" / "1")
    write_tflite(base / "tflite" / "1", signature=False)
    write_tflite(base / "tflite_signature" / "1", signature=True)
    write_stateful_tflite(base / "tflite_stateful" / "1")
    write_tflite_with_variable_tensors(base / "tflite_lstm" / "1")
    write_tflite_three(base / "tflite_three" / "1", base / "tflite_three_saved")
    write_tflite_ranked(base / "tflite_ranked" / "1")
    write_tflite_positive(base / "tflite_positive" / "1")
    write_tflite_filled(base / "tflite_filled" / "1")
    write_tflite_counting(base / "tflite_counting" / "1")
    write_tflite_widened(base / "tflite_widened" / "1")
    write_bounded(base / "bounded")
    write_counting_as_in_tensorflow_1(base / "bounded" / "counting_as_in_tensorflow_1" / "1")
