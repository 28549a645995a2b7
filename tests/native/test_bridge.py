"""Constants that Python and Rust share are declared only in Python, and Rust reads them through one module."""

import re
from pathlib import Path

import pytest

from headrace_batching import bridge
from headrace_batching.errors import TOO_MANY_BATCHES, TOO_MANY_ROWS
from headrace_server.backends.signature import DEFAULT_SIGNATURE
from headrace_server.services.json.arrays import MAX_RANK
from headrace_server.transports.grpc.handlers import LOW_PRIORITY

ROOT = Path(__file__).parents[2] / "native" / "src"
SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in sorted(ROOT.rglob("*.rs"))}


def product(text: str) -> str:
    """A Rust source without its comments and tests."""
    return re.sub(r"//.*", "", text.split("#[cfg(test)]\nmod tests {", maxsplit=1)[0])


PRODUCT = {name: product(text) for name, text in SOURCES.items() if not name.endswith("tests.rs")}

TEXTS = [
    piece for text in (TOO_MANY_BATCHES, TOO_MANY_ROWS) for piece in re.split(r"\{\w+\}", text) if piece.strip(",) ")
]


def test_rust_imports_one_module_of_python() -> None:
    imports = {name: re.findall(r"""\bimport\(([^)]*)\)""", text) for name, text in PRODUCT.items()}

    assert {name: found for name, found in imports.items() if found} == {
        "bridge/python.rs": [f'"{bridge.__name__}"'],
        "client/outputs.rs": ['"numpy"'],  # a client may be installed without the batching library
    }


def test_rust_takes_every_shared_name_and_no_other() -> None:
    names = PRODUCT["bridge/python.rs"].split("pub struct Names {")[1].split("}")[0]
    renamed = set(re.findall(r'attribute\("(\w+)"\)', names))
    plain = set(re.findall(r"(?<!\)\]\n)^    (?:pub )?(\w+): Py<PyAny>", names, re.MULTILINE))

    assert renamed | plain == set(bridge.__all__) - {"SHARED"}


@pytest.mark.parametrize(
    "shared",
    [
        *TEXTS,
        "256 << 20",
        f"MAX_RANK: usize = {MAX_RANK}",
        f'"{DEFAULT_SIGNATURE}"',
        LOW_PRIORITY[0],
        f'"{LOW_PRIORITY[1]}"',
        "PredictionService",
        *(str(seconds) for seconds in (bridge.SHARED.pace.quick, bridge.SHARED.pace.slow)),
    ],
)
def test_shared_constants_are_not_repeated_in_rust(shared: str) -> None:
    assert [name for name, text in PRODUCT.items() if shared in text] == []


def test_the_text_about_a_passed_deadline_is_written_once() -> None:
    assert [name for name, text in PRODUCT.items() if "Deadline Exceeded" in text] == ["grpc/status.rs"]


def test_unsafe_code_is_in_three_files_and_around_the_c_api_of_onnx_runtime() -> None:
    unsafe = {name for name, text in PRODUCT.items() if re.search(r"\bunsafe\b", text)}
    assert {name for name in unsafe if not name.startswith("onnx/")} == {
        "allocator.rs",
        "buffer.rs",
        "worker/page.rs",
    }
