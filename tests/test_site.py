"""The navigation of the documentation's site: `make docs` finds broken links, but not a page that is listed twice."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import ROOT

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")


def pages(entry: Any) -> Iterator[str]:
    """The files that an entry of the navigation names, with those below it."""
    if isinstance(entry, str):
        yield entry
        return
    for below in entry.values() if isinstance(entry, dict) else entry:
        yield from pages(below)


def test_every_page_is_in_the_navigation_once() -> None:
    listed = Counter(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    written = Counter(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))
    assert listed == written
