"""The documentation of dependencies: their origin and their licence."""

import runpy
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "dependencies.py"))
licence_of = SCRIPT["licence_of"]
crate_faults, distribution_faults = SCRIPT["crate_faults"], SCRIPT["distribution_faults"]
audit_faults, unaudited = SCRIPT["audit_faults"], SCRIPT["unaudited"]


def crate(**fields: Any) -> dict[str, Any]:
    return {"name": "c", "version": "1.0.0", "source": "registry+https://example.org/index", "license": "MIT", **fields}


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({}, None),
        ({"source": None, "license": None}, None),
        ({"license": "MIT OR Apache-2.0"}, None),
        ({"license": "(MIT OR GPL-3.0) AND Unicode-3.0"}, None),
        ({"license": "GPL-3.0"}, "licence GPL-3.0"),
        ({"license": "MIT AND GPL-3.0"}, "licence MIT AND GPL-3.0"),
        ({"license": None}, "licence none"),
        ({"source": "git+https://example.org/c"}, "not a registry"),
    ],
)
def test_crates(fields: dict[str, Any], fault: str | None) -> None:
    faults = list(crate_faults([crate(**fields)]))

    assert (faults == []) if fault is None else (len(faults) == 1 and fault in faults[0])


class Installed:
    """A distribution, reduced to its metadata."""

    def __init__(self, **fields: str) -> None:
        self.metadata = Message()
        for name, value in fields.items():
            self.metadata[name.replace("_", "-")] = value


@pytest.mark.parametrize(
    ("fields", "faults"),
    [
        ({"License_Expression": "Apache-2.0"}, 0),
        ({"License": "BSD 3-Clause"}, 0),
        ({"Classifier": "License :: OSI Approved :: MIT License"}, 0),
        ({"License": "Proprietary"}, 1),
        ({}, 1),
    ],
)
def test_distributions(fields: dict[str, str], faults: int) -> None:
    found = Installed(Name="d", **fields)

    assert len(list(distribution_faults([found]))) == faults


def test_headraces_own_packages_have_its_licence() -> None:
    assert list(distribution_faults([Installed(Name="headrace-native")])) == []


def test_a_licence_is_in_any_of_three_fields() -> None:
    metadata = Installed(License_Expression="MIT", License="text", Classifier="License :: OSI").metadata

    assert licence_of(metadata) == "MIT text License :: OSI"


REPORT = {
    "dependencies": [
        {"name": "fine", "version": "1", "vulns": []},
        {
            "name": "old",
            "version": "2",
            "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"], "description": "reads more"}],
        },
        {"name": "bad", "version": "3", "vulns": [{"id": "CVE-2", "fix_versions": [], "description": "reads all"}]},
        {"name": "own", "skip_reason": "not found"},
    ]
}


def test_each_vulnerability_is_a_fault() -> None:
    assert list(audit_faults(REPORT)) == [
        "distribution old 2 has CVE-1, fixed in 2.1",
        "distribution bad 3 has CVE-2, not fixed yet",
    ]


def test_packages_that_could_not_be_audited_are_reported() -> None:
    assert unaudited(REPORT) == "1 of 4 distributions could not be audited: own ..."
    assert unaudited({"dependencies": REPORT["dependencies"][:3]}) == ""
