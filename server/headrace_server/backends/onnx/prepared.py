"""Sessions of small models that are about to be loaded, opened on another thread while earlier ones are loaded.

A small model's session takes a few tenths of a millisecond, and so does the Python code of its load. headrace_native
opens sessions without the interpreter lock, so that both proceed at the same time.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import onnxruntime as ort

from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx.model_files import ModelFiles
from headrace_server.backends.onnx.native_session import Opening, Session
from headrace_server.backends.onnx.provider_options import Providers

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
        session: The opened session, which serves no model yet.
        needs: Objects that must live as long as the session.
    """

    files: ModelFiles
    providers: Providers
    session: Session
    needs: tuple[object, ...] = ()


class Prepared:
    """The sessions that are opened for the next loads. Any thread."""

    def __init__(self) -> None:
        self._models: dict[str, tuple[int, ModelFiles]] = {}  # by path, as text: the hash of a `Path` takes long
        self._opening: Opening | None = None
        self._options = BackendOptions()
        self._providers: Providers = ()

    def prepare(
        self,
        models: Iterable[Path],
        options: BackendOptions,
        providers: Providers,
        session_options: ort.SessionOptions,
        read: Callable[[Path], ModelFiles | None],
    ) -> None:
        """Replaces all sessions. A model whose session cannot be opened gets none: its load reports the error.

        Args:
            models: The files of the models that are loaded next.
            options: Options of the sessions.
            providers: The providers of the sessions: the CPU's.
            session_options: `options` as those of ONNX Runtime.
            read: Reads a file; None for a model that must be opened by its load.
        """
        end = time.monotonic() + SECONDS
        # Files are read on one thread, since this is Python code.
        paths = takewhile(lambda _: time.monotonic() < end, models)
        found = [files for path in paths if (files := _without_errors(read, path)) is not None]
        self._opening = Opening([files.source for files in found], session_options, end - time.monotonic())
        self._options, self._providers = options, providers
        self._models = {str(files.model): (number, files) for number, files in enumerate(found)}

    def take(self, model: Path, options: BackendOptions) -> Opened | None:
        """The session of a model, which the caller now owns; waits until it has been opened.

        None if there is none, or its files have changed since.
        """
        known, opening = self._models.pop(str(model), None), self._opening
        if known is None or opening is None or not _same_sessions(options, self._options):
            return None
        number, files = known
        session = opening.take(number)
        return Opened(files, self._providers, session) if session is not None and files.is_unchanged else None


def _without_errors(read: Callable[[Path], ModelFiles | None], model: Path) -> ModelFiles | None:
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
