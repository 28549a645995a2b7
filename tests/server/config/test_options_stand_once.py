"""Every option is declared in one place: no other code repeats its name, default or range."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace_batching.option import Rule
from headrace_server.commands.flags import FLAGS
from headrace_server.config.model_toml import TABLES, read_model_options
from headrace_server.errors import ServingError

ROOT = Path(__file__).parents[3]
PRODUCT = [ROOT / "batching" / "headrace_batching", ROOT / "server" / "headrace_server"]

COMMON_WORDS = {
    "method",
    "inputs",
    "outputs",
    "labels",
    "devices",
    "enabled",
    "instances",
    "providers",
    "transport",
    "model",
    "version",
    "signature",
    "input",
    "initial",
    "shape",
} | {
    "dimensions",
    "model_name",
    "tensorrt",
}
"""Names of options that are also ordinary words in other files."""

ELSEWHERE = {
    # Messages about a flag to its user, and fields of TF Serving's messages.
    "batching_parameters_file": {"commands/build.py"},
    "grpc_channel_arguments": {"commands/tensorflow_model_server.py"},
    # Checks that compare two options.
    "allowed_batch_sizes": {"config/model_toml.py"},
    "max_batch_size": {"config/files.py", "config/model_toml.py"},
    "max_enqueued_batches": {"options.py"},
    "model_base_path": {"commands/serve.py"},
    "custom_op_libraries": {"models/loader.py", "models/opened.py"},
    "model_keys_file": {"commands/sign.py"},
    "model_keys_command": {"commands/sign.py"},
    "trace_rate": {"services/open_inference/settings.py"},
    "device_id": {"services/open_inference/rest/administration.py"},
    # Needed before there is a configuration; and a setting of Triton's with the same name.
    "log_format": {"commands/serve.py", "commands/tensorflow_model_server.py", "services/open_inference/settings.py"},
    "log_level": {"commands/serve.py", "commands/tensorflow_model_server.py"},
    "port": {"commands/ports.py"},
    "rest_api_port": {"commands/ports.py"},
    "model_config_file": {"commands/serve.py"},
}

TRANSLATE = {
    "services/open_inference/load_config.py",
    "backends/onnx/provider_options.py",
    "backends/onnx/providers.py",
}
"""Files that translate options to or from another system, which uses some of the same names."""


def names() -> set[str]:
    keys = {name for options in TABLES.values() for name in options}
    return ({*FLAGS} | keys) - COMMON_WORDS


def texts() -> Iterator[tuple[str, str]]:
    """Each string in the product's code that is not a docstring, with its file."""
    for folder in PRODUCT:
        for path in sorted(folder.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value, path.relative_to(folder).as_posix()


def test_no_option_name_is_repeated_outside_its_declaration() -> None:
    wanted = names()
    found: dict[str, set[str]] = {}
    for text, path in texts():
        if text in wanted:
            found.setdefault(text, set()).add(path)

    extra = {(name, path) for name, paths in found.items() for path in paths - ELSEWHERE.get(name, set())}
    assert sorted(pair for pair in extra if pair[1] not in TRANSLATE) == []


BAD: dict[type, str] = {bool: "3", int: "-5", float: "true", str: "3", tuple: '"text"', dict: "[1]"}


def tables() -> Iterator[tuple[str, str, Rule]]:
    for where, options in TABLES.items():
        for name, own in options.items():
            yield where.replace("NAME", "s"), name, own.metadata["rule"]


@pytest.mark.parametrize(("where", "name", "rule"), list(tables()), ids=lambda value: str(value)[:30])
def test_every_key_of_model_toml_refuses_a_bad_value_with_the_same_kind_of_error(
    tmp_path: Path, where: str, name: str, rule: Rule
) -> None:
    bad = BAD[rule.kind] if name != "labels" else "3"
    (tmp_path / "model.toml").write_text(f"[{where}]\n{name} = {bad}\n")
    with pytest.raises(ServingError) as refused:
        read_model_options(tmp_path)

    assert refused.value.message.startswith(f"{tmp_path}/model.toml: {where}.{name} must be {rule.expectation}; was ")
