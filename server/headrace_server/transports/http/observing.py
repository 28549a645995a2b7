"""Listeners that are called for each REST call: for metrics, the access log and the audit log."""

from collections.abc import Callable

from headrace_server.metrics.access_log import log_call
from headrace_server.security.gate import Gate
from headrace_server.security.visit import visit_now

ObserveRest = Callable[[str, str, str, float], None]
"""Called with a model's name, the verb, the code of the answer, and its duration in seconds."""


def logged(observe: ObserveRest) -> ObserveRest:
    """Returns a listener that also writes a line to the access log for each call."""

    def observed(model: str, verb: str, code: str, seconds: float) -> None:
        log_call(f"REST {verb or 'metadata'}", model, code, seconds)
        observe(model, verb, code, seconds)

    return observed


def audited(observe: ObserveRest, gate: Gate | None) -> ObserveRest:
    """Returns a listener that also adds an entry to the audit log, if there is one, for each call."""
    if gate is None or not gate.audits:
        return observe

    def observed(model: str, verb: str, code: str, seconds: float) -> None:
        visit = visit_now()
        if visit is not None:
            gate.write(visit, f"HTTP {verb or 'metadata'}", model, code, seconds)
        observe(model, verb, code, seconds)

    return observed
