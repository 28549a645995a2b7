"""What a worker process is asked to do, as both sides know it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace_server.backends.base import BackendOptions
from headrace_server.backends.independence import Evidence
from headrace_server.backends.signature import Signature


@dataclass(frozen=True, slots=True)
class Job:
    """A model to load and to run.

    Attributes:
        folder: The version's.
        options: For the runtime.
        memory_limit: Bytes that the process may have beside shared memory and files; 0 for no limit.
        headroom: Bytes that it may have beyond what it has when the model is loaded; 0 for no limit.
    """

    folder: Path
    options: BackendOptions
    memory_limit: int = 0
    headroom: int = 0


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a worker process says of the model that it has loaded.

    Attributes:
        signatures: The model's own, by name.
        runtime: What runs it; empty where its backend does not say.
        streams: Whether it answers requests many times.
        answers_once: Whether it can answer a request once.
        evidence: What the model's file says against independent rows.
        exact: Whether equal rows in equal places of batches of one size give equal bits.
        most_rows: Rows that a batch may have; None for any number.
    """

    signatures: Mapping[str, Signature]
    runtime: str
    streams: bool = False
    answers_once: bool = True
    evidence: Sequence[Evidence] = ()
    exact: bool = True
    most_rows: int | None = None
