"""The flags that both commands share: which there are, and a line of warning for each that changes nothing."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import Field, fields
from typing import Any

from headrace_server.config import Config

log = logging.getLogger(__name__)

FLAGS: Mapping[str, Field[Any]] = {field.name: field for field in fields(Config) if "help" in field.metadata}
"""Every flag, by name, in the order in which it is shown."""

# TF Serving's flags that this version does not know what to do with: better refused than ignored.
NOT_YET = frozenset(
    """
    rest_api_port rest_api_num_threads rest_api_timeout_in_ms rest_api_enable_cors_support
    enable_model_warmup num_request_iterations_for_warmup saved_model_tags enable_signature_method_name_check
    enable_profiler prefer_tflite_model num_tflite_pools num_tflite_interpreters_per_pool
    """.split()
)


def warn_of_ignored(given: Iterable[str]) -> None:
    """Says, of each flag given that changes nothing, so and why.

    Args:
        given: Names of flags.
    """
    for name in given:
        reason = FLAGS[name].metadata["ignored"]
        if name in NOT_YET:
            reason = "this version does not support it yet"
        if reason:
            log.warning("--%s is ignored: %s", name, reason)
