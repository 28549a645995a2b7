"""Compares the converted model with its source: corrects wrong declarations of exporters, and refuses wrong answers."""

from pathlib import Path

from headrace_server.backends.independence import Finding, Verdict
from headrace_toolkit import mend
from headrace_toolkit.errors import ToolkitError
from headrace_toolkit.grounds import Grounds, Messages
from headrace_toolkit.report import Line
from headrace_toolkit.rows import TRIED_ROWS, try_model
from headrace_toolkit.running import OnnxModel
from headrace_toolkit.sources.base import Source
from headrace_toolkit.workshop import WRONG_ROWS


def try_rows(file: Path, grounds: Grounds) -> Verdict:
    """Whether the rows of several callers may share a batch, decided by the server's own test on the user's rows."""
    return try_model(file, None if grounds.random else grounds.rows(TRIED_ROWS))


def check_rows(source: Source, file: Path, grounds: Grounds, messages: Messages, *, batch: bool) -> None:
    """Corrects wrong declarations of the batch by the exporter, and refuses a model whose rows influence each other.

    Args:
        source: The source of the file.
        file: The converted model; it is changed.
        grounds: The rows to run.
        messages: Collects messages for the user.
        batch: Whether the version may be batched; if not, rows may influence each other.

    Raises:
        ToolkitError: The rows influence each other.
    """
    messages.notes += mend.mend_outputs(file, grounds.rows(mend.ROWS))
    verdict = try_rows(file, grounds)
    if verdict.batched:
        mend.name_batch(file, OnnxModel(file).signature)
        messages.notes += [f"requests will be {verdict.effect}"] if verdict.bound is not None else []
    elif verdict.finding is Finding.NO_BATCH_AXIS:
        messages.warnings.append(
            f"requests will run one by one: {verdict.reason}; export the model with a first dimension that varies to "
            "have them batched"
        )
    elif verdict.finding is Finding.DEPENDENT and batch:
        raise refusal_of_mixed(source, verdict)
    else:
        messages.warnings.append(f"requests will run one by one: {verdict.reason}")


def refusal_of_mixed(source: Source, verdict: Verdict) -> ToolkitError:
    """The error for a model whose rows influence each other."""
    return ToolkitError(
        f"{source.origin.name} mixes the rows of a batch: {verdict.reason}. In a batch, one caller's "
        "rows would change another's answers: fix the model, or publish it with --batch=false"
    )


def check_answers(source: Source, line: Line, messages: Messages, *, form: str = "ONNX") -> None:
    """Refuses a conversion that gives other answers than its source.

    Args:
        source: The model that was converted.
        line: The comparison of the answers.
        messages: Collects messages for the user.
        form: The format that it was converted to.

    Raises:
        ToolkitError: More than a few rows differ.
    """
    differing = line.differing or 0.0
    if differing > WRONG_ROWS:
        raise ToolkitError(
            f"{source.origin.name}: converted to {form}, it answers {differing:.0%} of the rows differently from "
            f"{source.origin.framework} itself, by up to {line.largest_difference:.3g}"
        )
    if differing:
        messages.notes.append(f"{differing:.2%} of the rows differ from the source's answers by more than rounding")
