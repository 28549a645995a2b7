"""Checks PyTorch's archives for anything that would run code when torch opens or runs them.

torch.export.load unpickles the weights, constants and sample inputs that an archive marks as pickled, evaluates its
symbolic sizes as Python, and looks up any attribute of torch that a node names. A TorchScript file may read and write
files.
"""

import io
import json
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace_toolkit.errors import ToolkitError

_OF_WEIGHTS = (
    "torch", "torch._utils", "torch._tensor", "torch.storage", "torch.serialization", "torch.nn.parameter",
    "collections",
)  # fmt: skip
"""The modules that the pickle of a state dict, or of sample inputs, names."""

_NAMED_OF_WEIGHTS = re.compile(
    r"_rebuild_\w+|Tensor|Parameter|\w*Storage|OrderedDict|float\d+|bfloat16|u?int\d+|bool|Size|device|_set_obj_state"
)
"""The names in these modules that such a pickle uses."""

_ARITHMETIC = ("_operator.", "operator.")
_OPERATORS = frozenset(
    "getitem add sub mul truediv floordiv mod pow neg pos abs eq ne lt le gt ge and_ or_ not_".split()
)
_TARGET = re.compile(r"torch\.ops\.(aten|prims|quantized|quantized_decomposed|torchvision|higher_order)\.(\w+)(\.\w+)?")
_SYMBOLIC = re.compile(r"torch\.sym_\w+|math\.\w+")
_FILES = frozenset({"from_file", "save", "load"})

_LITERAL = re.compile(r"Symbol\('\w+'(?:, \w+=(?:True|False))*\)|Float\('[\d.e+-]+', precision=\d+\)")
"""Types that sympy writes with quotes."""

_EXPRESSION = re.compile(r"[\w\s+\-*/%(),<>=!&|~.]*")
_CALLED = re.compile(r"([A-Za-z_]\w*)\s*\(")
_ATTRIBUTE = re.compile(r"\.\s*[A-Za-z_]")
_FUNCTIONS = frozenset(
    "Max Min Mod PythonMod FloorDiv ModularIndexing CleanDiv CeilDiv CeilToInt FloorToInt TruncToInt TruncToFloat "
    "RoundToInt RoundDecimal ToFloat IntTrueDiv FloatTrueDiv PowByNatural FloatPow Where Identity Eq Ne Lt Le Gt Ge "
    "And Or Not Piecewise Add Mul Pow Integer Rational ceiling floor Abs IsNonOverlappingAndDenseIndicator".split()
)

_TREE_TYPE = re.compile(r'"type": "([^"]*)"')
_TREES = frozenset("builtins.tuple builtins.list builtins.dict collections.OrderedDict".split())
"""The containers allowed for a program's arguments and answers: for any other, torch imports a module by name."""

_SCRIPTED = re.compile(
    r"\b(?:torch\.(from_file|save|load)|ops\.(?!prim\b|aten\b|quantized\b|torchvision\b)(\w+)\.\w+)\b"
)


def check_program(file: Path) -> None:
    """Refuses an archive of torch.export.save that would run code.

    Raises:
        ToolkitError: The archive might run code; the text names the member of the archive and the problem.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            found = next(_dangers(archive), None)
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ToolkitError(f"{file}: damaged, or not what torch.export.save writes") from error
    if found:
        raise ToolkitError(f"{file}: {found}, and loading it might run code that its author put into it")


def check_script(file: Path) -> None:
    """Refuses a TorchScript file whose code reads or writes files, or calls operators registered by others.

    Raises:
        ToolkitError: The code does so; the text names the call.
    """
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            code = archive.read(name).decode(errors="replace") if "/code/" in name and name.endswith(".py") else ""
            if called := _SCRIPTED.search(code):
                raise ToolkitError(f"{file}: its code calls {called[0]}, which no model needs")


def only_weights(content: bytes) -> bool:
    """Whether a file of torch.save has only tensors: inspects its pickle for other names, without running it.

    Args:
        content: The bytes of the zip archive.

    Raises:
        zipfile.BadZipFile, ValueError, KeyError: The archive is damaged.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        (pickled, *_) = [name for name in archive.namelist() if name.split("/", 1)[-1] == "data.pkl"]
        return only_names_weights(archive.read(pickled))


def only_names_weights(pickled: bytes) -> bool:
    """Whether a pickle, which is inspected and not run, names only the parts of tensors.

    Raises:
        ValueError: The pickle is damaged.
    """
    operations = list(pickletools.genops(pickled))
    if any(operation.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4") for operation, _, _ in operations):
        return False
    named = [str(argument).split(" ") for operation, argument, _ in operations if operation.name == "GLOBAL"]
    return all(module in _OF_WEIGHTS and bool(_NAMED_OF_WEIGHTS.fullmatch(name)) for module, name in named)


def _dangers(archive: zipfile.ZipFile) -> Iterator[str]:
    for name in archive.namelist():
        inner = name.split("/", 1)[-1]
        if inner.startswith(("data/weights/", "data/constants/")) and inner.endswith("_config.json"):
            yield from _payloads(inner, json.loads(archive.read(name)))
        elif inner.startswith("data/") and inner.endswith(".pt") and not only_weights(archive.read(name)):
            yield f"{inner} contains more than tensors"
        elif inner.startswith("models/"):
            yield from _of_program(inner, json.loads(archive.read(name)))
        elif inner.endswith((".so", ".py", ".pkl")) or inner.startswith("data/aotinductor"):
            yield f"it contains {inner}"


def _payloads(config: str, document: Any) -> Iterator[str]:
    for name, payload in document["config"].items():
        if payload.get("use_pickle", False):
            yield f"{config} has {name} unpickled"
        if "/constants/" in f"/{config}" and not payload["path_name"].startswith("tensor_"):
            yield f"{config} names the Python object {name}"


def _of_program(model: str, value: Any) -> Iterator[str]:
    """The problems with operators and sizes anywhere in a program."""
    if isinstance(value, list):
        for item in value:
            yield from _of_program(model, item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "target" and "inputs" in value and not _is_operator(str(item)):
                yield f"{model} calls {item!r}"
            elif key == "expr_str" and not _is_arithmetic(item):
                yield f"{model} has a size {item!r}"
            elif key in ("in_spec", "out_spec") and not set(_TREE_TYPE.findall(str(item))) <= _TREES:
                yield f"{model} nests its arguments or answers in objects of Python classes"
            else:
                yield from _of_program(model, item)


def _is_operator(target: str) -> bool:
    if target.startswith(_ARITHMETIC):
        return target.partition(".")[2] in _OPERATORS
    if _SYMBOLIC.fullmatch(target):
        return True
    if found := _TARGET.fullmatch(target):
        return found[2] not in _FILES
    return not target.startswith(("torch", "math", "#"))  # torch treats other strings as names


def _is_arithmetic(text: Any) -> bool:
    text = _LITERAL.sub("1", text) if isinstance(text, str) else "?"
    if not _EXPRESSION.fullmatch(text) or "__" in text or _ATTRIBUTE.search(text):
        return False
    return set(_CALLED.findall(text)) <= _FUNCTIONS
