"""Published versions side by side: all others are compared with the first one."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from headrace_server.backends.signature import Signature
from headrace_toolkit.data import Data
from headrace_toolkit.errors import ToolkitError, first_line
from headrace_toolkit.graph import MODEL_FILE
from headrace_toolkit.grounds import Plan, Told, settle
from headrace_toolkit.machine import this_machine
from headrace_toolkit.progress import Progress
from headrace_toolkit.publish import CARD_FILE
from headrace_toolkit.recipe import Recipe
from headrace_toolkit.report import Line, Report, Rows
from headrace_toolkit.sources.auto import load
from headrace_toolkit.sources.files import sha256_of
from headrace_toolkit.variants import Variant, examine, timed


def compare_versions(places: Sequence[str], data: Data | None, recipe: Recipe, progress: Progress) -> Report:
    """Measures versions beside the first of them.

    Args:
        places: Folders of versions, or ONNX files.
        data: The rows; None means random rows.
        recipe: The metric, the seed, and the time for timing; the other fields are not used.
        progress: Called with the progress.

    Raises:
        ToolkitError: A version cannot be read or run, or has other inputs than the first one.
    """
    told = Told()
    sources = [(name_of(place), load(model_of(place))) for place in places]
    changed = [warning for place in places for warning in changed_files(place)]
    first = sources[0][1]
    for name, source in sources[1:]:
        _check_alike(sources[0][0], first.signature, name, source.signature)
    plan = Plan(calibrates=False, classes=(), seed=recipe.seed)
    grounds = settle(first, data, recipe.data, plan, told, progress)
    variants: list[Variant] = []
    for (name, source), place in zip(sources, places, strict=True):
        with progress.step(f"check {name}") as advance:
            variants.append(examine(name, model_of(place), source, grounds, advance))
    with progress.step("time the versions"):
        base, others = timed(variants[0], variants[1:], grounds, recipe.timing_seconds)
    return Report(
        source=first.origin,
        machine=this_machine(),
        metric=grounds.metric.name,
        share=grounds.metric.share,
        rows=Rows(name=grounds.measured.name, sha256=grounds.measured.sha256, count=len(grounds.measured)),
        lines=tuple(_shown(variant.line) for variant in (base, *others)),
        warnings=(*changed, *told.warnings),
        notes=tuple(told.notes),
        changed_files=bool(changed),
    )


def _shown(line: Line) -> Line:
    return replace(line, kept=False)


def name_of(place: str) -> str:
    """The model and the version, as in `digits/2`."""
    path = Path(place).absolute()
    return f"{path.parent.name}/{path.name}"


def model_of(place: str) -> Path:
    """The model's file in a version's folder, or the file itself.

    Raises:
        ToolkitError: The folder holds none.
    """
    path = Path(place)
    if path.is_dir():
        if not (path / MODEL_FILE).is_file():
            raise ToolkitError(f"{place} holds no {MODEL_FILE}: name the folder of one version")
        return path / MODEL_FILE
    return path


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
        files = {str(name): str(told["sha256"]) for name, told in json.loads(card.read_text())["files"].items()}
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
