"""Turns a trained model into a smaller, faster one, checks its answers, and publishes it as a version."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace_toolkit.data import Data
    from headrace_toolkit.errors import ToolkitError
    from headrace_toolkit.pipeline import convert, optimize
    from headrace_toolkit.recipe import Recipe
    from headrace_toolkit.sources.auto import load
    from headrace_toolkit.sources.base import SourceOptions

__all__ = ["Data", "Recipe", "SourceOptions", "ToolkitError", "convert", "load", "optimize"]

_HOMES = {
    "Data": "data",
    "Recipe": "recipe",
    "SourceOptions": "sources.base",
    "ToolkitError": "errors",
    "convert": "pipeline",
    "load": "sources.auto",
    "optimize": "pipeline",
}


def __getattr__(name: str) -> Any:
    """Imports a public name only when it is used.

    `headrace --help` imports this package, and must not wait for numpy and the rest.
    """
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"headrace_toolkit.{_HOMES[name]}"), name)
