"""Reads the test result for independent rows from a version's card, if it was obtained from exactly these files."""

import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from headrace_server.backends.independence import Finding, Verdict

CARD_FILE = "card.json"

_BESIDE = frozenset({CARD_FILE, "profile.json", "assets.extra"})
"""Files that may lie in a version's folder without belonging to the model."""

_PART = 1 << 20


def proved_rows(folder: Path) -> Verdict | None:
    """The verdict that `headrace convert` or `optimize` wrote into a version's card; None if it proves nothing.

    A card proves that rows are independent if this version of headrace ran the test, and if the folder holds exactly
    the files that the card names, byte for byte. Nothing else in a card is trusted: the model is tested instead.

    Args:
        folder: The version's folder.
    """
    try:
        with open(os.path.join(folder, CARD_FILE), "rb") as file:
            card = json.loads(file.read())
        rows, files, made_by = card["rows"], card["files"], card["versions"]["headrace"]
        proves = rows["finding"] == Finding.INDEPENDENT and made_by == version("headrace")
        if not proves or not _are_the_files(folder, files):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no card, or not one written by headrace
        return None
    return Verdict(Finding.INDEPENDENT, f"{CARD_FILE} records a trial of exactly these files")


def _are_the_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> bool:
    held = {path.name for path in folder.iterdir()} - _BESIDE
    return held == set(files) and all(
        (folder / name).stat().st_size == entry["bytes"] and _sha256(folder / name) == entry["sha256"]
        for name, entry in files.items()
    )


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(_PART):
            digest.update(part)
    return digest.hexdigest()
