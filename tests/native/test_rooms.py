"""The modules of the native transport: no two of them depend on each other, directly or indirectly."""

import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCE = ROOT / "native" / "src"

_NAMES = re.compile(r"\bcrate::(?:\{([^}]*)\}|(\w+))")


def imports() -> dict[str, set[str]]:
    """The modules that each module uses, outside its tests."""
    rooms = {folder.name for folder in SOURCE.iterdir() if folder.is_dir()}
    return {room: _named_in(SOURCE / room) & rooms - {room} for room in rooms}


def _named_in(room: Path) -> set[str]:
    code = "".join(file.read_text().partition("#[cfg(test)]")[0] for file in room.rglob("*.rs"))
    found = (several.split(",") if several else [one] for several, one in _NAMES.findall(code))
    return {name.strip().partition("::")[0] for names in found for name in names}


def circle(rooms: Mapping[str, set[str]]) -> list[str]:
    """A cycle of modules that depend on each other; empty if there is none."""
    try:
        TopologicalSorter(rooms).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_cycle() -> None:
    assert circle(imports()) == []


def test_all_modules_are_checked() -> None:
    rooms = imports()
    assert {"bridge", "http2", "queue", "server"} <= set(rooms)
    assert "queue" in rooms["bridge"]
    assert rooms["memory"] == set()
    assert rooms["protobuf"] == {"memory"}


@pytest.mark.parametrize("added", [("protobuf", "server"), ("queue", "bridge"), ("http", "rest")])
def test_a_cycle_would_be_found(added: tuple[str, str]) -> None:
    rooms = imports()
    rooms[added[0]].add(added[1])
    assert circle(rooms)
