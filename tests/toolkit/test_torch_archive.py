"""PyTorch archives are inspected before torch opens them: files that would run code are refused, without torch."""

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from headrace_toolkit import ToolkitError
from headrace_toolkit.sources.files import kind_of
from headrace_toolkit.sources.torch_archive import check_program, check_script, only_names_weights

SIZE = "Symbol('s31', positive=True, integer=True) + FloorDiv(s31, 2)*Max(1, s31)"
TREE = '[1, {"type": "builtins.tuple", "context": "null", "children_spec": []}]'


class Opens:
    """A pickle of this class opens a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("was_run", "w")


def saved(content: bytes) -> bytes:
    """Writes a file as torch.save does."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("archive/data.pkl", content)
    return archive.getvalue()


def program(file: Path, **members: Any) -> Path:
    """Writes a file as torch.export.save does, with members replaced:

    `weights`, `constants`, `model`, `sample`, or others.
    """
    payload = {"path_name": "weight_0", "use_pickle": False}
    contents = {
        "weights": {"config": {"0.weight": payload}},
        "constants": {"config": {"k": {"path_name": "tensor_0", "use_pickle": False}}},
        "model": {
            "nodes": [
                {"target": name, "inputs": []} for name in ("torch.ops.aten.linear.default", "_operator.getitem")
            ],
            "signature": {"parameter": {"target": "torch.weight"}},
            "sizes": [{"as_expr": {"expr_str": SIZE}}],
            "in_spec": TREE,
        },
        "sample": saved(pickle.dumps(OrderedDict(), protocol=2)),
        **members,
    }
    places = {
        "weights": "m/data/weights/model_weights_config.json",
        "constants": "m/data/constants/model_constants_config.json",
        "model": "m/models/model.json",
        "sample": "m/data/sample_inputs/model.pt",
    }
    with zipfile.ZipFile(file, "w") as opened:
        for name, content in contents.items():
            opened.writestr(places.get(name, name), content if isinstance(content, bytes) else json.dumps(content))
    return file


def test_an_ordinary_program(tmp_path: Path) -> None:
    file = program(tmp_path / "net.pt2")
    check_program(file)
    assert kind_of(file) == "pt2"


def target(name: str) -> dict[str, Any]:
    return {"model": {"graph": {"nodes": [{"target": name, "inputs": []}]}}}


def size(text: str) -> dict[str, Any]:
    return {"model": {"graph": {"sym_int_values": {"s": {"as_expr": {"expr_str": text}}}}}}


DANGERS: list[tuple[dict[str, Any], str]] = [
    ({"weights": {"config": {"0.weight": {"path_name": "weight_0", "use_pickle": True}}}}, "has 0.weight unpickled"),
    ({"constants": {"config": {"k": {"path_name": "tensor_0", "use_pickle": True}}}}, "has k unpickled"),
    ({"constants": {"config": {"k": {"path_name": "opaque_obj_0"}}}}, "names the Python object k"),
    ({"constants": {"config": {"k": {"path_name": "custom_obj_0"}}}}, "names the Python object k"),
    ({"sample": saved(pickle.dumps(Opens(), protocol=2))}, "sample_inputs/model.pt contains more than tensors"),
    ({"sample": saved(pickle.dumps(Opens(), protocol=4))}, "sample_inputs/model.pt contains more than tensors"),
    (
        {"m/data/weights/model.pt": saved(pickle.dumps(Opens(), protocol=2))},
        "weights/model.pt contains more than tensors",
    ),
    ({"m/data/aotinductor/model/net.so": b"\x7fELF"}, "it contains data/aotinductor/model/net.so"),
    (target("torch.os.system"), "calls 'torch.os.system'"),
    (target("torch.load"), "calls 'torch.load'"),
    (target("torch.ops.load_library"), "calls 'torch.ops.load_library'"),
    (target("torch.ops.aten.from_file.default"), "calls 'torch.ops.aten.from_file.default'"),
    (target("torch.ops.mine.anything.default"), "calls 'torch.ops.mine.anything.default'"),
    (target("_operator.methodcaller"), "calls '_operator.methodcaller'"),
    (target("#mine"), "calls '#mine'"),
    (size("__import__('os').system('true')"), "has a size"),
    (size("open('was_run')"), "has a size"),
    (size("().__class__"), "has a size"),
    (size("s.evalf"), "has a size"),
    (size("lambdify(s, s)"), "has a size"),
    ({"model": {"in_spec": TREE.replace("builtins.tuple", "collections.defaultdict")}}, "objects of Python classes"),
]


@pytest.mark.parametrize(("members", "text"), DANGERS, ids=[text + str(n) for n, (_, text) in enumerate(DANGERS)])
def test_a_program_that_would_run_code(
    tmp_path: Path, members: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = program(tmp_path / "net.pt2", **members)
    with pytest.raises(ToolkitError) as refusal:
        check_program(file)
    assert str(refusal.value).startswith(f"{file}: ")
    assert text in str(refusal.value)
    assert str(refusal.value).endswith("loading it might run code that its author put into it")
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"config": {"a": 1}}'])
def test_a_damaged_program(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ToolkitError, match=r"damaged, or not what torch\.export\.save writes"):
        check_program(program(tmp_path / "net.pt2", weights=content))


@pytest.mark.parametrize("call", ["torch.save(x, 'a')", "torch.from_file('a')", "ops.mine.run(x)"])
def test_a_script_that_touches_files(tmp_path: Path, call: str) -> None:
    file = tmp_path / "net.pt"
    for body, refused in (("torch.relu(x)", False), ("ops.prim.NumToTensor(x)", False), (call, True)):
        with zipfile.ZipFile(file, "w") as opened:
            opened.writestr("net/code/__torch__/net.py", f"def forward(self, x):\n  return {body}\n")
        assert kind_of(file) == "torchscript"
        if refused:
            with pytest.raises(ToolkitError, match="which no model needs"):
                check_script(file)
        else:
            check_script(file)


def test_pickles() -> None:
    assert only_names_weights(pickle.dumps(OrderedDict(), protocol=2))
    assert not only_names_weights(pickle.dumps(OrderedDict(), protocol=4))  # protocol 4 takes names from the stack
    assert not only_names_weights(b"ctorch.serialization\nload\n.")
    assert not only_names_weights(b"ctorch\nload\n.")
    with pytest.raises(ValueError, match=r".+"):
        only_names_weights(b"")
