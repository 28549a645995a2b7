"""Python models: the inputs that they get, the values that they may return, their failures, and how they are freed."""

import gc
import os
import re
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from grpc import StatusCode

from headrace_protos import Code
from headrace_server.backends.callable_impl import CallableBackend, load_python
from headrace_server.errors import LoadError, ServingError
from tests.conftest import ROOT, Make, Run
from tests.support.calls import Refusal, arrays, floats, predict_request

SPECS = """
INPUTS = {"x": ("float32", [None, 2])}
OUTPUTS = {"y": ("float32", [None])}
"""
GUIDE = ROOT / "docs" / "python-models.md"


def examples() -> list[str]:
    """The Python code in the guide."""
    return re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)


def write(folder: Path, code: str, specs: str = SPECS) -> Path:
    """A version's model.py."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(specs + dedent(code))
    return folder / "model.py"


def run(backend: CallableBackend, *rows: list[float]) -> object:
    return backend.run("serving_default", {"x": floats(*rows)}, ["y"])["y"].tolist()


def failure_of(file: Path) -> tuple[Code, str]:
    with pytest.raises(LoadError) as raised:
        load_python(file)
    return raised.value.code, raised.value.message.removeprefix(f"{file}: ")


def run_failure_of(backend: CallableBackend) -> tuple[Code, str]:
    with pytest.raises(ServingError) as raised:
        run(backend, [1.0, 2.0])
    return raised.value.code, raised.value.message


def modules() -> set[str]:
    return {name for name in sys.modules if name.startswith("headrace_model_")}


def test_the_guides_function_is_served_in_batches(running: Run) -> None:
    def make(folder: Path) -> Path:
        file = write(folder, examples()[0], specs="")
        (folder / "words.txt").write_text("good fine")
        return file

    caller = running(make).caller
    texts = [["a good day", ""], ["Fine good fine"]]

    pending = [caller.begin(predict_request({"text": np.array(text, object)})) for text in texts]

    answers = [arrays(future.result()) for future in pending]
    assert [answer["words"].tolist() for answer in answers] == [[3, 0], [3]]
    assert [answer["score"].tolist() for answer in answers] == [
        [pytest.approx(1 / 3), 0.0],
        [pytest.approx(2 / 3)],
    ]
    assert answers[0]["score"].dtype == np.float32


def test_the_guides_handler(running: Run) -> None:
    def make(folder: Path) -> Path:
        file = write(folder, examples()[1], specs="")
        np.save(folder / "weights.npy", np.ones((784, 10)))
        return file

    answer = running(make).caller.predict({"image": np.full((2, 28, 28), 255, np.uint8)})

    assert answer["scores"].tolist() == [[784.0] * 10] * 2


def test_a_shape_that_is_not_declared_never_reaches_the_model(running: Run) -> None:
    server = running(lambda folder: write(folder, "def predict(inputs): raise AssertionError"))

    refusal = server.caller.refusal(predict_request({"x": floats([1.0])}))

    assert refusal == Refusal(
        StatusCode.INVALID_ARGUMENT,
        "Got invalid dimensions for input: x for the following indices index: 1 Got: 1 Expected: 2",
    )


def test_hooks_at_the_top_of_the_file(tmp_path: Path) -> None:
    code = """
    def preprocess(inputs): return inputs["x"] + 1
    def inference(x): return x.sum(1)
    def postprocess(sums): return {"y": sums * 10}
    """
    assert run(load_python(write(tmp_path, code)), [1.0, 2.0]) == [50.0]


def test_a_model_may_write_into_its_inputs(tmp_path: Path) -> None:
    backend = load_python(write(tmp_path, "def predict(inputs): inputs['x'] += 1; return {'y': inputs['x'][:, 0]}"))
    sent = np.broadcast_to(np.float32(1), (2, 2))

    assert backend.run("serving_default", {"x": sent}, ["y"])["y"].tolist() == [2.0, 2.0]
    assert sent.tolist() == [[1.0, 1.0]] * 2


@pytest.mark.parametrize(
    ("dims", "batched"),
    [("[None, 2]", True), ("[-1, 2]", True), ("(-1,)", True), ("[1, -1]", False), ("[1, 2]", False), ("[]", False)],
)
def test_a_batch_axis_needs_a_first_dimension_that_varies_in_every_tensor(
    tmp_path: Path, dims: str, batched: bool
) -> None:
    specs = f'INPUTS = {{"x": ("float32", {dims})}}\nOUTPUTS = {{"y": ("float32", [None])}}\n'

    backend = load_python(write(tmp_path, "def predict(inputs): return {}", specs))

    assert backend.signatures["serving_default"].batched is batched


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        ("{'z': 1}", "the model returned no 'y', only z"),
        ("{}", "the model returned no 'y', only nothing"),
        ("3", "the model returned a int, not a dict of arrays"),
        ("{'y': [1j]}", "the model returned a value for 'y' that is not float32: "),
        ("{'y': ['a']}", "the model returned a value for 'y' that is not float32: "),
        ("{'y': [[1], [1, 2]]}", "the model returned a value for 'y' that is not float32: "),
    ],
)
def test_invalid_return_values(tmp_path: Path, returned: str, text: str) -> None:
    backend = load_python(write(tmp_path, f"def predict(inputs): return {returned}"))

    code, message = run_failure_of(backend)

    assert code == Code.INTERNAL
    assert message.startswith(f"model.py: {text}")


STRINGS = """
import enum

INPUTS = {"x": ("float32", [None, 2])}
OUTPUTS = {"y": ("string", [None])}

class Color(str, enum.Enum):
    RED = "red"

class Text(str): ...

class Raw(bytes): ...

class Harmful:
    def __reduce__(self):
        return exit, (9,)
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_strings_of_any_class_are_sent_as_bytes(running: Run, workers: int) -> None:
    code = "def predict(inputs): return {'y': ['\u00e4', b'b', Color.RED, Text('t'), Raw(b'r'), np.bytes_(b'n')]}"
    server = running(isolated(f"import numpy as np{STRINGS}{code}", workers))

    answer = server.caller.predict({"x": np.zeros((6, 2), np.float32)})

    assert answer["y"].tolist() == ["\u00e4".encode(), b"b", b"red", b"t", b"r", b"n"]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("value", ["5", "None", "{1: 2}", "bytearray(b'a')", "Harmful()", "'\\ud800'"])
def test_a_value_that_is_not_a_string_fails_only_its_request(running: Run, value: str, workers: int) -> None:
    code = f"def predict(inputs): return {{'y': ['fine' if x[0] else {value} for x in inputs['x']]}}"
    server = running(isolated(STRINGS + code, workers), enable_synthetic_warmup=False)

    for _ in range(3):
        refused = server.caller.refusal(predict_request({"x": floats([0, 0])}))

        assert refused.code == StatusCode.INTERNAL
        assert refused.text.startswith("model.py: the model returned a value for 'y' that is not string: ")
    assert server.caller.predict({"x": floats([1, 1])})["y"].tolist() == [b"fine"]


def isolated(code: str, workers: int) -> Make:
    """A maker of a model with this code, whose requests run one by one in this number of worker processes."""

    def make(folder: Path) -> Path:
        write(folder, code, "")
        options = f"[isolation]\nworkers = {workers}\n[batching]\nenabled = false\n"
        folder.parent.joinpath("model.toml").write_text(options)
        return folder

    return make


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("raised", ["ServingError(99, 'odd')", "ServingError(0, 'odd')", "KeyboardInterrupt('odd')"])
def test_an_odd_failure_is_internal_and_affects_no_other_request(running: Run, raised: str, workers: int) -> None:
    code = f"""
def predict(inputs):
    if not inputs["x"].any():
        raise {raised}
    return {{"y": inputs["x"][:, 0]}}
"""
    declared = f"from headrace_server.errors import ServingError{SPECS}"
    server = running(isolated(declared + code, workers), enable_synthetic_warmup=False)

    for _ in range((os.cpu_count() or 1) + 1):  # once more than there are batch threads
        refused = server.caller.refusal(predict_request({"x": floats([0, 0])}))

        assert refused.code == StatusCode.INTERNAL
        assert "odd" in refused.text
    assert server.caller.predict({"x": floats([1, 1])})["y"].tolist() == [1]


@pytest.mark.parametrize(
    ("declared", "values", "fits"),
    [
        ("int32", "np.int64([1, -(2**31)])", True),
        ("int32", "np.int64([1, 2**31])", False),
        ("uint8", "np.uint64([1, 256])", False),
        ("int64", "np.uint64([1, 2**63])", False),
        ("int64", "np.uint64([1, 2**63 - 1])", True),
        ("int8", "np.array([True, False])", True),
    ],
)
def test_an_integer_that_is_too_large_for_its_dtype_is_an_error(
    tmp_path: Path, declared: str, values: str, fits: bool
) -> None:
    specs = SPECS.replace('"y": ("float32"', f'"y": ("{declared}"')
    backend = load_python(write(tmp_path, f"import numpy as np\ndef predict(inputs): return {{'y': {values}}}", specs))

    if fits:
        assert run(backend, [1, 2])
    else:
        code, text = run_failure_of(backend)
        assert code == Code.INTERNAL
        assert text.startswith(f"model.py: the model returned a value for 'y' that is not {declared}: it has integers")


def test_an_exception_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text("def divide(x):\n    return x / 0\n")
    top = load_python(write(tmp_path, "\ndef predict(inputs):\n    raise KeyError('lost')\n"))
    beside = load_python(write(tmp_path, "from .parts import divide\ndef predict(inputs):\n    return divide(1)\n"))

    assert run_failure_of(top) == (Code.INTERNAL, "KeyError: 'lost' (model.py, line 6, in predict)")
    assert run_failure_of(beside) == (
        Code.INTERNAL,
        "ZeroDivisionError: division by zero (parts.py, line 2, in divide)",
    )


def test_a_model_chooses_its_code(tmp_path: Path) -> None:
    code = "from headrace_server.errors import invalid\ndef predict(inputs):\n    raise invalid('odd')\n"

    assert run_failure_of(load_python(write(tmp_path, code))) == (Code.INVALID_ARGUMENT, "odd")


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (
            "import no_such_module",
            "ModuleNotFoundError: No module named 'no_such_module' (model.py, line 4, in <module>)",
        ),
        ("def predict(inputs)\n", "SyntaxError: expected ':' (model.py, line 4)"),
        ("raise SystemExit(3)", "SystemExit: 3 (model.py, line 4, in <module>)"),
        (
            "def initialize(context): context.lost\ndef predict(inputs): ...",
            "AttributeError: 'Context' object has no attribute 'lost' (model.py, line 4, in initialize)",
        ),
    ],
)
def test_models_that_fail_while_they_load(tmp_path: Path, code: str, failure: str) -> None:
    before = modules()

    assert failure_of(write(tmp_path, code)) == (Code.INTERNAL, failure)
    assert modules() == before


@pytest.mark.parametrize(
    ("specs", "failure"),
    [
        ("", 'defines no INPUTS such as {"x": ("float32", [None, 4])}'),
        ("INPUTS = OUTPUTS = {'x': 'float32'}", "INPUTS['x'] is 'float32', not a dtype and a shape: "),
        ("INPUTS = OUTPUTS = {'x': ('float33', [2])}", "INPUTS['x'] is ('float33', [2]), not a dtype and a shape: "),
        ("INPUTS = OUTPUTS = {'x': ('object', ['n'])}", "INPUTS['x'] is ('object', ['n']), not a dtype and a shape: "),
        (
            "INPUTS = OUTPUTS = {'x': ('float32', [2.5])}",
            "INPUTS['x'] is ('float32', [2.5]), not a dtype and a shape: ",
        ),
        (
            "INPUTS = OUTPUTS = {'x': ('float32', ['4'])}",
            "INPUTS['x'] is ('float32', ['4']), not a dtype and a shape: ",
        ),
        (
            "INPUTS = OUTPUTS = {'x': ('float32', [-2, 4])}",
            "INPUTS['x'] is ('float32', [-2, 4]), not a dtype and a shape: -2 is not the size of a dimension",
        ),
        (
            "INPUTS = OUTPUTS = {'x': ('float32', [True])}",
            "INPUTS['x'] is ('float32', [True]), not a dtype and a shape: True is not the size of a dimension",
        ),
        (SPECS, "must define predict(inputs), inference(data) or stream(inputs) at module level or in a class Hand"),
    ],
)
def test_files_without_a_valid_declaration(tmp_path: Path, specs: str, failure: str) -> None:
    code = "" if specs == SPECS else "\ndef predict(inputs): return inputs"

    got, text = failure_of(write(tmp_path, code, specs))

    assert got == Code.INVALID_ARGUMENT
    assert text.startswith(failure)


def test_calls_come_one_at_a_time(tmp_path: Path) -> None:
    code = """
    import threading
    busy = threading.Lock()
    def predict(inputs):
        assert busy.acquire(blocking=False), "two at once"
        sum(range(100_000))  # takes longer than a thread keeps the interpreter lock
        busy.release()
        return {"y": inputs["x"][:, 0]}
    """
    backend = load_python(write(tmp_path, code))

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda n: run(backend, [n, 0.0]), range(20))) == [[float(n)] for n in range(20)]


def test_a_thread_safe_model_runs_several_at_once(tmp_path: Path) -> None:
    code = """
    import threading
    THREAD_SAFE = True
    both = threading.Barrier(2, timeout=60)
    def predict(inputs):
        both.wait()
        return {"y": inputs["x"][:, 0]}
    """
    backend = load_python(write(tmp_path, code))

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda n: run(backend, [n, 0.0]), range(2))) == [[0.0], [1.0]]


def test_versions_live_side_by_side_and_leave_nothing_behind(tmp_path: Path) -> None:
    before = modules()
    backends = []
    for version in (1, 2):
        folder = tmp_path / str(version)
        file = write(folder, "from .parts import FACTOR\ndef predict(inputs): return {'y': inputs['x'][:, 0] * FACTOR}")
        (folder / "parts.py").write_text(f"FACTOR = {version}")
        backends.append(load_python(file))
    assert [run(backend, [1.0, 1.0]) for backend in backends] == [[1.0], [2.0]]

    for backend in backends:
        backend.close()

    assert modules() == before
    with pytest.raises(ServingError, match="the model has been unloaded"):
        run(backends[0], [1.0, 1.0])


def test_an_unloaded_model_is_closed_and_freed(tmp_path: Path) -> None:
    code = """
    class Big: pass

    class Handler:
        def initialize(self, context): self.big = Big()
        def inference(self, inputs): return {"y": inputs["x"][:, 0]}
        def close(self): (self.folder / "closed").touch()
    """
    backend = load_python(write(tmp_path, code))
    model = backend._model
    model.folder = tmp_path  # type: ignore[attr-defined]
    kept = weakref.ref(model.big)  # type: ignore[attr-defined]
    del model

    backend.close()

    gc.collect()
    assert kept() is None
    assert (tmp_path / "closed").exists()


OWN_MEMORY = {
    "its own buffer": """
        buffer = np.empty(100, np.float32)
        def predict(inputs):
            np.sum(inputs["x"], axis=1, out=buffer[: len(inputs["x"])])
            return {"y": buffer[: len(inputs["x"])]}
    """,
    "all of its own buffer": """
        buffer = np.empty(1, np.float32)
        def predict(inputs):
            buffer[:] = inputs["x"].sum(axis=1)
            return {"y": buffer}
    """,
    "a view of its input": """
        kept = []
        def predict(inputs):
            for x in kept:
                x[:] = -1
            kept.append(inputs["x"])
            inputs["x"][:, 0] += inputs["x"][:, 1]
            return {"y": inputs["x"][:, 0]}
    """,
    "what it keeps": """
        kept = []
        def predict(inputs):
            for y in kept:
                y[:] = -1
            kept.append(inputs["x"].sum(axis=1))
            return {"y": kept[-1]}
    """,
    "memory of another library": """
        memory = bytearray(4)
        def predict(inputs):
            y = np.frombuffer(memory, np.float32)
            y[:] = inputs["x"].sum(axis=1)
            return {"y": y}
    """,
    "one dict for all": """
        results = {"y": np.empty(1, np.float32)}
        def predict(inputs):
            results["y"][:] = inputs["x"].sum(axis=1)
            return results
    """,
}


@pytest.mark.parametrize("returned", OWN_MEMORY)
def test_an_answer_stays_valid_whatever_the_model_does_with_its_memory(tmp_path: Path, returned: str) -> None:
    backend = load_python(write(tmp_path, "import numpy as np\n" + dedent(OWN_MEMORY[returned])))
    answers = [backend.run("serving_default", {"x": floats([number, 1.0])}, ["y"])["y"] for number in (1.0, 2.0, 3.0)]

    assert [answer.tolist() for answer in answers] == [[2], [3], [4]]


def test_an_answer_of_strings_stays_valid_too(tmp_path: Path) -> None:
    code = """
        import numpy as np
        buffer = np.empty(1, object)
        def predict(inputs):
            buffer[0] = inputs["x"][0] + b"!"
            return {"y": buffer}
    """
    specs = 'INPUTS = {"x": ("string", [None])}\nOUTPUTS = {"y": ("string", [None])}\n'
    backend = load_python(write(tmp_path, code, specs))
    texts = [np.array([text], object) for text in (b"a", b"b")]
    answers = [backend.run("serving_default", {"x": text}, ["y"])["y"] for text in texts]

    assert [answer.tolist() for answer in answers] == [[b"a!"], [b"b!"]]


def test_two_outputs_may_be_one_array(tmp_path: Path) -> None:
    code = """
        def predict(inputs):
            y = inputs["x"].sum(axis=1)
            return {"y": y, "z": y}
    """
    specs = SPECS + 'OUTPUTS["z"] = ("float32", [None])\n'
    backend = load_python(write(tmp_path, code, specs))
    results = backend.run("serving_default", {"x": floats([1.0, 2.0])}, ["y", "z"])

    assert not np.shares_memory(results["y"], results["z"])


def test_the_next_batch_waits_until_the_answer_has_been_copied(tmp_path: Path) -> None:
    """The model runs one call at a time, and all answers use one buffer, so large that a copy takes a while."""
    code = """
        import numpy as np
        buffer = np.empty((1, 1 << 20), np.float32)
        def predict(inputs):
            buffer[:] = inputs["x"]
            return {"y": buffer}
    """
    specs = 'INPUTS = {"x": ("float32", [None, 1])}\nOUTPUTS = {"y": ("float32", [None, 1 << 20])}\n'
    backend = load_python(write(tmp_path, code, specs))

    def is_right(number: float) -> bool:
        y = backend.run("serving_default", {"x": floats([number])}, ["y"])["y"]
        return bool((y == number).all())

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(is_right, map(float, range(200))))
