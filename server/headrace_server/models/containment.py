"""Keeps a model that requests may end the process with out of the server's own process."""

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
"""That odd requests are sent to a model of which nothing is known."""

RUN_SECONDS = 1.0
"""That one of them may run."""

TRIAL_MEMORY = 2 << 30
"""Bytes that the process of a trial may take beyond the model: some odd requests ask for answers of any size."""


def risks_of(backend: Backend) -> Risks | None:
    """What a request may do to the process that a model runs in; None for nothing."""
    risks = backend.risks if isinstance(backend, MayEndProcess) else NO_RISKS
    return None if risks == NO_RISKS else risks


def must_be_contained(name: str, backend: Backend, start_trial: Callable[[], IsolatedBackend]) -> bool:
    """Whether a model has to run in a worker process, since a request may end the process that it runs in.

    A model with an operator that is known for it has to, and one that takes as much memory as a request says. One with
    an operator of which it is not known is tried in a process that is thrown away.

    Args:
        name: The model's, for the log.
        backend: The model, which has risks; it may be closed.
        start_trial: Loads the model in a process of its own, where a run may take `RUN_SECONDS`.
    """
    risks = risks_of(backend) or NO_RISKS
    if risks.fatal or risks.growing:
        does = f"{risks.fatal[0]} end the process" if risks.fatal else f"{risks.growing[0]} take any amount of memory"
        _say(name, f"a request can make its operator {does}")
        return True
    trial = start_trial()
    try:
        fatal = _fatal_request(backend, trial)
    finally:
        trial.close()
    if fatal:
        _say(name, f"an unusual request ({fatal}) ended the process in which it was tried")
    return bool(fatal)


def _say(name: str, why: str) -> None:
    own = "`workers = 0` under [isolation] in model.toml runs it in the server's own process anyway"
    log.warning("%s runs in a worker process: %s; %s", name, why, own)


def _is_answered_without(signature: Signature, inputs: Arrays) -> bool:
    """Whether a request never reaches the runtime, as it has no rows."""
    try:
        return has_no_rows(signature, inputs)
    except BatchingError:
        return True


def _fatal_request(backend: Backend, trial: IsolatedBackend) -> str:
    """What was odd about a request that has ended the process; empty where none has."""
    end = time.monotonic() + TRIAL_SECONDS
    for name, signature in backend.signatures.items():
        for what, inputs in odd_requests(signature):
            if _is_answered_without(signature, inputs):
                continue
            if time.monotonic() > end:
                return ""
            try:
                trial.run(name, inputs, signature.every_output)
            except RunLost as lost:
                if lost.code == Code.INTERNAL:
                    return what
            except ServingError:
                continue  # as it ought to
    return ""
