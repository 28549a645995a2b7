"""Paths of arbitrary bytes, passed through text that is always Unicode."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_server.config.paths import as_path, as_text


@given(st.binary(min_size=1).filter(lambda path: 0 not in path))
def test_a_path_of_any_bytes_comes_back(path: bytes) -> None:
    text = as_text(os.fsdecode(path))

    assert os.fsencode(as_path(text)) == os.fsencode(Path(os.fsdecode(path)))
    text.encode()


@pytest.mark.parametrize("path", ["/models/m", "/mod\u00e8les", "/a%ff", "/a\\xff"])
def test_a_path_that_is_unicode_is_its_own_text(path: str) -> None:
    assert as_text(path) == path
    assert as_path(path) == Path(path)
