"""What the card of a version has proved of its rows: a trial that was run before, on the very bytes that lie there."""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from headrace_server.backends.independence import Finding, Verdict

CARD_FILE = "card.json"

_BESIDE = frozenset({CARD_FILE, "profile.json", "assets.extra"})
"""What may lie in a version's folder without being a part of the model."""

_PART = 1 << 20


def proved_rows(folder: Path) -> Verdict | None:
    """The verdict that `headrace convert` or `optimize` wrote into a version's card; None where it proves nothing.

    A card proves that rows are independent where this headrace's own trial found it, and where the folder's files are,
    byte for byte, all of those that the card names. Whatever else a card says is not taken from it: the model is tried.

    Args:
        folder: The version's.
    """
    try:
        card = json.loads((folder / CARD_FILE).read_bytes())
        rows, files, made_by = card["rows"], card["files"], card["versions"]["headrace"]
        proves = rows["finding"] == Finding.INDEPENDENT and made_by == version("headrace")
        if not proves or not _are_the_files(folder, files):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no card, or none that headrace has written
        return None
    return Verdict(Finding.INDEPENDENT, f"{CARD_FILE} records a trial of these very files")


def _are_the_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> bool:
    held = {path.name for path in folder.iterdir()} - _BESIDE
    return held == set(files) and all(
        (folder / name).stat().st_size == told["bytes"] and _sha256(folder / name) == told["sha256"]
        for name, told in files.items()
    )


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(_PART):
            digest.update(part)
    return digest.hexdigest()
