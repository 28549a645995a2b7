"""Sessions of small models that are about to be loaded, created together.

A small model's session takes a few tenths of a millisecond, in which ONNX Runtime does not hold the interpreter lock.
If sessions are created one by one, between the other steps of each load, they use one core, and ONNX Runtime's code and
the code of the other steps keep evicting each other from its caches.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from headrace_batching.cpus import schedulable_cpus
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx.model_files import ModelFiles
from headrace_server.backends.onnx.native_session import Session
from headrace_server.backends.onnx.provider_options import Providers

MOST_THREADS = 4
"""The maximum number of threads that create sessions: more would mostly wait for the interpreter lock."""

SECONDS = 0.2
"""Seconds after which no further session is created in advance.

The sessions of the other models, which are slow or in slow folders, are created by their own loads, of which several
may run at the same time.
"""


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that serves no model yet.

    Attributes:
        files: The model's files as they were before the session was created.
        providers: The providers that the session was given.
        session: The session.
        needs: Objects that must live as long as the session.
    """

    files: ModelFiles
    providers: Providers
    session: Session
    needs: tuple[object, ...]


class Prepared:
    """The sessions that have been created for the next loads. Any thread."""

    def __init__(self) -> None:
        self._opened: dict[str, Opened] = {}  # by path, as text: the hash of a `Path` takes long
        self._options = BackendOptions()

    def prepare(
        self, models: Iterable[Path], options: BackendOptions, read: Callable[[Path], Callable[[], Opened] | None]
    ) -> None:
        """Replaces all sessions. A model whose session cannot be created gets none: its load reports the error.

        Args:
            models: The files of the models that are loaded next.
            options: Options of the sessions.
            read: Reads a file, and returns a function that creates the session; None for a model that must be opened by
                its load.
        """
        end = time.monotonic() + SECONDS
        # Files are read on one thread, since this is Python code.
        files = takewhile(lambda _: time.monotonic() < end, models)
        found = [(model, open_session) for model in files if (open_session := _without_errors(read, model))]
        self._opened, self._options = _open_all(found, end), options

    def take(self, model: Path, options: BackendOptions) -> Opened | None:
        """The session of a model, which the caller now owns; None if there is none, or its files have changed since."""
        opened = self._opened.pop(str(model), None)
        if opened is None or not _same_sessions(options, self._options) or not opened.files.is_unchanged:
            return None
        return opened


def _open_all(models: Sequence[tuple[Path, Callable[[], Opened]]], end: float) -> dict[str, Opened]:
    """Creates the sessions of these models, on several threads, until a time on the monotonic clock."""
    opened: dict[str, Opened] = {}

    def open_some(some: Sequence[tuple[Path, Callable[[], Opened]]]) -> None:
        for model, open_session in some:
            if time.monotonic() >= end:
                break
            with suppress(Exception):
                opened[str(model)] = open_session()

    threads = max(1, min(MOST_THREADS, schedulable_cpus(), len(models)))
    with ThreadPoolExecutor(threads, thread_name_prefix="prepare") as pool:
        for number in range(threads):
            pool.submit(open_some, models[number::threads])
    return opened


def _without_errors(read: Callable[[Path], Callable[[], Opened] | None], model: Path) -> Callable[[], Opened] | None:
    with suppress(Exception):
        return read(model)
    return None


def _same_sessions(options: BackendOptions, others: BackendOptions) -> bool:
    """Whether sessions with these options are the same."""
    return options is others or (
        options.onnxruntime == others.onnxruntime
        and options.intra_op_threads == others.intra_op_threads
        and options.inter_op_threads == others.inter_op_threads
    )
