"""A request to a worker process to load a model, and the process's report on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace_server.backends.base import BackendOptions
from headrace_server.backends.independence import NO_HINTS, Evidence, Hints
from headrace_server.backends.signature import Signature


@dataclass(frozen=True, slots=True)
class Job:
    """A model to load and run.

    Attributes:
        folder: The version's folder.
        options: Options of the runtime.
        memory_limit: The number of bytes that the process may use, not counting shared memory and files; 0 means no
            limit.
        headroom: The number of bytes that the process may use beyond those in use after the load; 0 means no limit.
        linked: Whether the messages of runs go through a link, which needs headrace-native.
    """

    folder: Path
    options: BackendOptions
    memory_limit: int = 0
    headroom: int = 0
    linked: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """A worker process's report about the model that it has loaded.

    Attributes:
        signatures: The model's own signatures, by name.
        runtime: The name of the model's runtime; empty if its backend does not name it.
        streams: Whether the model streams answers.
        answers_once: Whether the model can give a request a single answer, through the backend's `run`.
        evidence: Reasons in the model's file to doubt that rows are independent.
        hints: Facts from the model's file about inputs to try.
        exact: Whether equal rows at equal positions in batches of equal size give equal bits.
        most_rows: The maximum number of rows of a batch; None means any number.
    """

    signatures: Mapping[str, Signature]
    runtime: str
    streams: bool = False
    answers_once: bool = True
    evidence: Sequence[Evidence] = ()
    hints: Hints = NO_HINTS
    exact: bool = True
    most_rows: int | None = None
