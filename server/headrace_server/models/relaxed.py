"""Loads a backend's relaxed form on a thread of its own, at the first request that needs it."""

import logging
from concurrent.futures import Future
from threading import Thread

from headrace_protos import Code
from headrace_server.backends.base import Backend, Relaxable
from headrace_server.errors import LoadError, status_of

log = logging.getLogger(__name__)


def load_relaxed(backend: Backend) -> Future[Backend]:
    """Starts the load, which may take as long as the model's first; the relaxed backend, or why there is none.

    The future cannot be cancelled: whoever waits for it may leave, the others go on waiting.
    """
    loaded: Future[Backend] = Future()
    loaded.set_running_or_notify_cancel()
    Thread(target=_load, args=(backend, loaded), name="relax", daemon=True).start()
    return loaded


def _load(backend: Backend, loaded: Future[Backend]) -> None:
    try:
        loaded.set_result(_relaxed(backend))
    except Exception as error:
        code, text = status_of(error)
        log.warning("only the declared shapes are served: %s", text)
        loaded.set_exception(LoadError(code, text))


def _relaxed(backend: Backend) -> Backend:
    if isinstance(backend, Relaxable):
        return backend.relaxed()
    message = "its backend knows no others"
    raise LoadError(Code.FAILED_PRECONDITION, message)
