"""Commands that only some machines have."""

import shutil

import pytest


def tool(name: str) -> str:
    """The path of a command; skips the test if it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} command")
    return found
