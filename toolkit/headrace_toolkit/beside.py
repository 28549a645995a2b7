"""Compares published versions with each other: the first one with all others."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from headrace_server.backends.signature import Signature
from headrace_toolkit.data import Data
from headrace_toolkit.errors import ToolkitError, first_line
from headrace_toolkit.grounds import Messages, Plan, settle
from headrace_toolkit.machine import this_machine
from headrace_toolkit.progress import Progress
from headrace_toolkit.publish import CARD_FILE
from headrace_toolkit.published import open_version
from headrace_toolkit.recipe import Recipe
from headrace_toolkit.report import Line, Report, Rows
from headrace_toolkit.running import in_parts
from headrace_toolkit.sources.files import sha256_of
from headrace_toolkit.variants import line_of, time_ratios


def compare_versions(places: Sequence[str], data: Data | None, recipe: Recipe, progress: Progress) -> Report:
    """Measures versions and compares them with the first one.

    Args:
        places: Folders of versions, or ONNX or TFLite files.
        data: The rows; None means random rows.
        recipe: The metric, the seed, and the CPU time for timing; the other fields are not used.
        progress: Called with the progress.

    Raises:
        ToolkitError: A version cannot be read or run, or its inputs differ from the first one's.
    """
    messages = Messages()
    versions = [open_version(place) for place in places]
    changed = [warning for place in places for warning in changed_files(place)]
    first = versions[0].source
    for version in versions[1:]:
        _check_alike(versions[0].name, first.signature, version.name, version.model.signature)
    plan = Plan(calibrates=False, classes=(), seed=recipe.seed)
    grounds = settle(first, data, recipe.data, plan, messages, progress)
    lines: list[Line] = []
    for version in versions:
        with progress.step(f"check {version.name}") as advance:
            answers = in_parts(version.model.run, version.model.signature, grounds.measured.inputs, advance)
            lines.append(line_of(version.name, answers, grounds, version.size()))
    with progress.step("time the versions"):
        runs = [version.model.run for version in versions]
        times = time_ratios(runs, versions[0].model.signature, grounds, recipe.timing_seconds)
    return Report(
        source=first.origin,
        machine=this_machine(),
        metric=grounds.metric.name,
        share=grounds.metric.share,
        rows=Rows(name=grounds.measured.name, sha256=grounds.measured.sha256, count=len(grounds.measured)),
        lines=tuple(replace(line, time=time, kept=False) for line, time in zip(lines, times, strict=True)),
        warnings=(*changed, *messages.warnings),
        notes=tuple(messages.notes),
        changed_files=bool(changed),
    )


def _check_alike(first: str, wanted: Signature, other: str, found: Signature) -> None:
    if set(wanted.inputs) != set(found.inputs):
        raise ToolkitError(
            f"{other} takes {', '.join(found.inputs)}, and {first} takes {', '.join(wanted.inputs)}: they cannot be "
            "compared on the same rows"
        )


def changed_files(place: str) -> list[str]:
    """A sentence for each file of a version that differs from the one named in its card."""
    card = Path(place) / CARD_FILE
    if not card.is_file():
        return []
    try:
        files = {str(name): str(entry["sha256"]) for name, entry in json.loads(card.read_text())["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ToolkitError(f"{card} is not a card: {first_line(error)}") from error
    sentences = []
    for name, sha256 in files.items():
        file = Path(place) / name
        if not file.is_file():
            sentences.append(f"{file} is missing, though the card names it")
        elif sha256_of(file) != sha256:
            sentences.append(f"{file} is no longer the file that its card names: it has another SHA-256")
    return sentences
