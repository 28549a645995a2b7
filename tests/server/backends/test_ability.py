"""A backend has an optional ability if its class, or the object itself, has the ability's members."""

import pytest

from headrace_server.backends.base import NamesRuntime, Steady, Streaming, Terminable


class Full:
    runtime = "full"

    @property
    def steady(self) -> bool:
        raise AssertionError("the value must not be read")

    def expect_termination(self) -> None: ...

    def terminate(self, thread: int) -> None: ...


class Half:
    def terminate(self, thread: int) -> None: ...


class Named:
    def __init__(self) -> None:
        self.runtime = "named"


@pytest.mark.parametrize(
    ("ability", "able"), [(NamesRuntime, {Full, Named}), (Steady, {Full}), (Terminable, {Full}), (Streaming, set())]
)
def test_all_members_must_be_there(ability: type, able: set[type]) -> None:
    assert {kind for kind in (Full, Half, Named) if isinstance(kind(), ability)} == able
