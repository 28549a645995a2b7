"""Writes docs/options.md, tables of every option, from the declarations; with --check, fails instead if it is stale."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import Field
from pathlib import Path
from typing import Any

from headrace_batching.option import Rule, default_of
from headrace_server.commands.flags import FLAGS
from headrace_server.config.model_toml import TABLES

PAGE = Path(__file__).parents[1] / "docs" / "options.md"

HEAD = """# Options

Generated from the declarations in the code by `scripts/options`; `make check` verifies that it is up to date.

Flags are given as `--name=value` to `headrace serve` and to `tensorflow_model_server`, whose defaults differ in a few
cases. `model.toml` stands next to a model's numbered folders and takes precedence over the flags for that model.
"""

NUMBER_OF_CPUS = "from the number of CPUs"


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_flags(), *(line for where, options in TABLES.items() for line in _table(where, options))])


def _flags() -> Iterator[str]:
    yield "## Flags\n"
    yield "| flag | meaning | value |"
    yield "| --- | --- | --- |"
    for name, own in FLAGS.items():
        if not own.metadata["ignored"]:
            yield f"| `--{name}` | {_sentence(own)} | {_value(own, by_cpus=own.metadata['by_cpus'])} |"
    yield "\n## Flags of TensorFlow Serving without an effect\n"
    yield "| flag | why |"
    yield "| --- | --- |"
    for name, own in FLAGS.items():
        if own.metadata["ignored"]:
            yield f"| `--{name}` | {own.metadata['ignored']} |"
    yield ""


def _table(where: str, options: Mapping[str, Field[Any]]) -> Iterator[str]:
    yield f"## `[{where}]` in `model.toml`\n"
    yield "| key | meaning | value |"
    yield "| --- | --- | --- |"
    for name, own in options.items():
        yield f"| `{name}` | {_sentence(own)} | {_value(own)} |"
    yield ""


def _value(own: Field[Any], *, by_cpus: bool = False) -> str:
    """The accepted values, and the default if there is one, in a single column, to fit a narrow window."""
    rule: Rule = own.metadata["rule"]
    default = NUMBER_OF_CPUS if by_cpus else _default(own)
    return f"{rule.expectation}; default: {default}" if default else rule.expectation


def _default(own: Field[Any]) -> str:
    shown, theirs = _shown(default_of(own)), own.metadata.get("tensorflow", default_of(own))
    return shown if theirs == default_of(own) else f"{shown}, for `tensorflow_model_server` {_shown(theirs)}"


def _shown(value: Any) -> str:
    if value is None or value in ("", (), {}):
        return ""
    if isinstance(value, tuple):
        return f"`{','.join(map(str, value))}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _sentence(own: Field[Any]) -> str:
    return str(own.metadata["help"]).replace("|", "\\|")


def main() -> int:
    """Writes the page, or reports that it is stale."""
    if "--check" not in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page():
        return 0
    print(f"{PAGE.relative_to(Path.cwd())} differs from the code: run scripts/options", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
