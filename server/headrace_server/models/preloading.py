"""Loads some models at the start of a server that loads all others when they are called."""

import logging
from collections.abc import Collection
from fnmatch import fnmatchcase

from headrace_server.errors import not_found
from headrace_server.models.manager import Manager

log = logging.getLogger(__name__)


def preload(manager: Manager, patterns: Collection[str]) -> None:
    """Loads the models that `--preload_models` names, and returns when they are in memory.

    Args:
        manager: Loads the models.
        patterns: Names, or patterns such as ranker-*. A pattern that no model matches is only logged.

    Raises:
        ServingError: NOT_FOUND if a name is not that of a model; or a model cannot be loaded.
    """
    names = manager.names()
    for pattern in patterns:
        if any(fnmatchcase(name, pattern) for name in names):
            continue
        if not set(pattern) & set("*?["):
            raise not_found(f"--preload_models: no model is named {pattern}")
        log.warning("--preload_models: no model's name matches %s", pattern)
    for name in names:
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            manager.load(name)
