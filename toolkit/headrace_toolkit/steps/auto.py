"""The kinds of steps that a recipe may name, each imported when it is needed."""

from collections.abc import Mapping
from importlib import import_module

from headrace_toolkit.steps.base import Step
from headrace_toolkit.tables import Table

KINDS: Mapping[str, str] = {
    "simplify": "simplify",
    "quantize": "quantize",
    "half": "half",
    "share": "share",
    "prune": "prune",
    "channels": "channels",
    "distil": "distil",
}
"""For each `kind`, the module of this package whose `build` makes the step from the rest of its table."""


def build(kind: str, table: Table) -> Step:
    """The step that a table of a recipe describes. The caller refuses keys that are left in the table.

    Raises:
        ToolkitError: A key has an invalid value.
    """
    step: Step = import_module(f"headrace_toolkit.steps.{KINDS[kind]}").build(table)
    return step
