"""Decides, while a version is loaded, which signatures' requests may share a batch, and explains why not."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from headrace_batching.task import Arrays
from headrace_server.backends.base import Backend, ProvesRows, Settled, Streaming, Triable
from headrace_server.backends.batch_axis import declares_rows
from headrace_server.backends.independence import (
    NO_HINTS,
    Evidence,
    Finding,
    Hints,
    Subject,
    Verdict,
    repeated_batch_name,
    try_padding,
    try_rows,
    with_totals,
)
from headrace_server.backends.signature import Signature
from headrace_server.config.padding import PaddingOptions
from headrace_server.models.card import proved_rows
from headrace_server.models.recorded import recorded_inputs

log = logging.getLogger(__name__)

LEAST_SECONDS = 0.05
"""Seconds that the tests of a version may take, however quickly it was loaded."""

PART_OF_LOAD = 0.1
"""The share of the load's duration that its tests may take, if that is more than `LEAST_SECONDS`."""


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """An operator's settings for batches.

    Attributes:
        batching: Whether requests share batches at all.
        batched: The setting of `model.toml`; None means that a test decides.
        any_first_dimension: Whether `batched` applies regardless of the declared shapes.
        padding: How requests whose inputs differ in length can share batches.
    """

    batching: bool = True
    batched: bool | None = None
    any_first_dimension: bool = False
    padding: PaddingOptions = field(default_factory=PaddingOptions)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that has been loaded, and is not served yet.

    Attributes:
        name: The name of the model and its version, for the log.
        folder: The version's folder.
        seconds: How long the load took.
    """

    name: str
    folder: Path
    backend: Backend
    seconds: float
    settings: BatchSettings = field(default_factory=BatchSettings)


def decide(version: Loaded, try_one: Callable[[Subject, float], Verdict] = try_rows) -> dict[str, Verdict]:
    """Finds a verdict for each signature, by name, and passes it to the backend and the log.

    Args:
        version: The loaded version whose signatures are to be judged.
        try_one: Tests one signature within a number of seconds.
    """
    signatures = version.backend.signatures
    budget = max(LEAST_SECONDS, PART_OF_LOAD * version.seconds) / max(1, len(signatures))
    records: dict[str, list[Arrays]] = {}
    verdicts = {}
    for name, signature in signatures.items():
        verdict = _untried(signature, version) or _proved(version) or _proved_by_graph(version, name)
        if verdict is None or _may_pad(verdict, signature, version.settings):
            records = records or recorded_inputs(version.folder, signatures)
            subject = _subject(version, name, records[name])
            verdict = try_one(subject, budget) if verdict is None else try_padding(subject, verdict, budget)
        verdicts[name] = verdict
        if version.settings.batching or version.settings.batched is False:
            _say(version, name, verdict)
    if isinstance(version.backend, Settled):
        version.backend.settle({name: verdict.batched for name, verdict in verdicts.items()})
    return verdicts


def as_decided(signature: Signature, verdict: Verdict | None, *, batching: bool) -> Signature:
    """A signature, changed to say which of its requests may share a batch.

    Args:
        signature: The signature as declared.
        verdict: The verdict; None if nothing was tested.
        batching: Whether requests share batches at all; if not, axis 0 matters only for shapes.
    """
    if verdict is None:
        return signature
    batched = verdict.batched if batching else declares_rows(signature)
    if (batched, verdict.bound) == (signature.batched, signature.bound) and verdict.padding is signature.padding:
        return signature
    return replace(signature, batched=batched, padding=verdict.padding, bound=verdict.bound)


def _untried(signature: Signature, version: Loaded) -> Verdict | None:
    """The verdict, if it is known without a test; otherwise None."""
    settings, backend = version.settings, version.backend
    if isinstance(backend, Streaming) and not backend.answers_once:
        return Verdict(Finding.DISABLED, "each has a stream of answers")
    if not settings.batching:
        return Verdict(Finding.DISABLED, "batching is off")
    if settings.batched is False:
        return Verdict(Finding.DISABLED, "model.toml says so")
    if settings.batched and (signature.batched or settings.any_first_dimension):
        return Verdict(Finding.ENABLED, "model.toml says so")
    if not signature.batched:
        return Verdict(Finding.NO_BATCH_AXIS, "the first dimension of its inputs does not vary")
    return None


def _proved(version: Loaded) -> Verdict | None:
    """The verdict that the version's card has proved, on a CPU like this one; None if a test is needed."""
    on_cpu = isinstance(version.backend, Triable) and version.backend.exact
    return proved_rows(version.folder) if on_cpu else None


def _proved_by_graph(version: Loaded, name: str) -> Verdict | None:
    """The verdict that the model's graph proves; None if a test is needed."""
    backend = version.backend
    if not isinstance(backend, ProvesRows) or not backend.rows_are_apart(name) or _evidence(backend, name):
        return None
    return Verdict(Finding.INDEPENDENT, "each operator of its graph computes every row independently")


def _evidence(backend: Backend, name: str) -> list[Evidence]:
    """Reasons in the model's description to doubt that rows are independent."""
    signature = backend.signatures[name]
    evidence: list[Evidence] = list(backend.evidence) if isinstance(backend, Triable) else []
    repeated = repeated_batch_name(signature.inputs, signature.outputs)
    return [*evidence, *([repeated] if repeated else [])]


def _may_pad(verdict: Verdict, signature: Signature, settings: BatchSettings) -> bool:
    """Whether to look for a padding: for independent rows, or if an operator has set pad values."""
    varies = any(None in spec.shape[1:] for spec in signature.inputs.values())
    return varies and (
        verdict.finding is Finding.INDEPENDENT or (verdict.batched and bool(settings.padding.pad_values))
    )


def _subject(version: Loaded, name: str, records: list[Arrays]) -> Subject:
    backend = version.backend
    signature = backend.signatures[name]
    run = backend.try_run if isinstance(backend, Triable) else backend.run
    inputs, outputs = with_totals(signature.inputs, signature.outputs)
    return Subject(
        run=partial(run, name, outputs=signature.every_output),
        inputs=inputs,
        outputs=outputs,
        exact=backend.exact if isinstance(backend, Triable) else True,
        evidence=_evidence(backend, name),
        records=records,
        most_rows=backend.most_rows if isinstance(backend, Triable) else None,
        padding=version.settings.padding,
        hints=_hints(backend, signature),
    )


def _hints(backend: Backend, signature: Signature) -> Hints:
    """What the model's file says about inputs to try, by their aliases."""
    if not isinstance(backend, Triable):
        return NO_HINTS
    known = backend.hints.categories
    named = {alias: known[spec.name] for alias, spec in signature.inputs.items() if spec.name in known}
    return replace(backend.hints, categories=named)


_EFFECT: Mapping[bool, str] = {True: "requests share batches", False: "requests run one by one"}


def _say(version: Loaded, name: str, verdict: Verdict) -> None:
    """Describes in one line the decision, its reason, the duration of the test, and the advice."""
    what = f"{version.name}, {name}: {_EFFECT[verdict.batched]}"
    trial = f" (trial: {verdict.runs} runs, {verdict.seconds * 1e3:.1f} ms)" if verdict.runs else ""
    if verdict.bound is not None:
        text = "%s if all their floats are finite and from -%g to %g; other requests run one by one: %s%s"
        log.info(text, what, verdict.bound, verdict.bound, verdict.reason, trial)
    elif verdict.finding is Finding.INDEPENDENT:
        log.info("%s: no row depends on the others%s%s", what, trial or f" ({verdict.reason})", _lengths(verdict))
    elif verdict.finding in (Finding.ENABLED, Finding.DISABLED):
        log.info("%s: %s", what, verdict.reason)
    else:
        log.warning("%s: %s%s. %s", what, verdict.reason, trial, _advice(verdict))


def _lengths(verdict: Verdict) -> str:
    """A text about requests whose inputs differ in length; empty if the lengths cannot differ."""
    if verdict.unpadded:
        return f". Requests of different lengths do not share batches: {verdict.unpadded}"
    if verdict.padding is None:
        return ""
    values = ", ".join(f"{alias} with {value}" for alias, value in verdict.padding.values.items())
    return f". Requests of different lengths share batches, too, and are padded: {values}"


def _advice(verdict: Verdict) -> str:
    said = "`batch_axis = true`" if verdict.finding is Finding.NO_BATCH_AXIS else "`enabled = true`"
    accept = f"{said} under [batching] in model.toml batches them even if that changes answers"
    return f"To batch them, {verdict.advice}; {accept}" if verdict.advice else accept
