"""The flags that both commands share: which there are, and a line of warning for each that changes nothing."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields
from typing import Any

from headrace_server.config import Config

log = logging.getLogger(__name__)

FLAGS: Mapping[str, Field[Any]] = {field.name: field for field in fields(Config) if "help" in field.metadata}
"""Every flag, by name, in the order in which it is shown."""


def warn_of_ignored(given: Iterable[str]) -> None:
    """Says, of each flag given that changes nothing, so and why.

    Args:
        given: Names of flags.
    """
    for name in given:
        reason = FLAGS[name].metadata["ignored"]
        if reason:
            log.warning("--%s is ignored: %s", name, reason)
