"""Keeps a model out of the server's own process if requests can crash the process."""

import logging
import time
from collections.abc import Callable

from headrace_batching import BatchingError
from headrace_batching.task import Arrays
from headrace_protos import Code
from headrace_server.backends.base import NO_RISKS, Backend, MayEndProcess, Risks
from headrace_server.backends.odd_inputs import odd_requests
from headrace_server.backends.signature import Signature
from headrace_server.errors import RunLost, ServingError
from headrace_server.models.no_rows import has_no_rows
from headrace_server.processes.isolated import IsolatedBackend

log = logging.getLogger(__name__)

TRIAL_SECONDS = 2.0
"""Seconds for testing an unknown model with odd requests, if the machine is not busy."""

LEAST_RUNS = 20
"""This many requests are tested even if time is up: on a busy machine, starting the process may take seconds.
"""

LONGEST_SECONDS = 20.0
"""Seconds after which a test ends even with fewer requests."""

RUN_SECONDS = 1.0
"""Seconds that a single odd request may run."""

TRIAL_MEMORY = 2 << 30
"""The number of bytes that the process of a test may use beyond the model: some odd requests ask for huge answers."""


def risks_of(backend: Backend) -> Risks | None:
    """The ways in which a request can harm the process that a model runs in; None if there are none."""
    risks = backend.risks if isinstance(backend, MayEndProcess) else NO_RISKS
    return None if risks == NO_RISKS else risks


def must_be_contained(name: str, backend: Backend, start_trial: Callable[[], IsolatedBackend]) -> bool:
    """Whether a model must run in a worker process because a request can crash its process.

    The model must if one of its operators is known to crash, if values in a request determine how much memory it uses,
    or if they can make it run for hours: such a run ends only with its process. If an operator is unknown, the model is
    tested in a process of its own.

    Args:
        name: The model's name, for the log.
        backend: The model, which has risks; it may be closed here.
        start_trial: Loads the model in a process of its own, where a run may take `RUN_SECONDS`.
    """
    risks = risks_of(backend) or NO_RISKS
    known = {
        "end the process": risks.fatal,
        "take any amount of memory": risks.growing,
        "run for hours": risks.lasting,
    }
    for does, operators in known.items():
        if operators:
            _say(name, f"a request can make its operator {operators[0]} {does}")
            return True
    trial = start_trial()
    try:
        fatal = _fatal_request(backend, trial)
    finally:
        trial.close()
    if fatal:
        _say(name, f"an unusual request ({fatal}) crashed the process in which it was tested")
    return bool(fatal)


def _say(name: str, why: str) -> None:
    own = "`workers = 0` under [isolation] in model.toml runs it in the server's own process anyway"
    log.warning("%s runs in a worker process: %s; %s", name, why, own)


def _is_answered_without(signature: Signature, inputs: Arrays) -> bool:
    """Whether a request has no rows and so never reaches the runtime."""
    try:
        return has_no_rows(signature, inputs)
    except BatchingError:
        return True


def _fatal_request(backend: Backend, trial: IsolatedBackend) -> str:
    """The odd property of the request that crashed the process; empty if no request did."""
    began, runs = time.monotonic(), 0
    for name, signature in backend.signatures.items():
        for what, inputs in odd_requests(signature):
            if _is_answered_without(signature, inputs):
                continue
            if time.monotonic() - began > (TRIAL_SECONDS if runs >= LEAST_RUNS else LONGEST_SECONDS):
                return ""
            runs += 1
            try:
                trial.run(name, inputs, signature.every_output)
            except RunLost as lost:
                if lost.code == Code.INTERNAL:
                    return what
            except ServingError:
                continue  # the model has refused the request, as it should
    return ""
