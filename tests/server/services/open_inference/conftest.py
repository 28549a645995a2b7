"""Connections for the Open Inference Protocol; tests of one module with equal arguments share a server."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from tests.conftest import Make, Rest, Run
from tests.server.services.open_inference.calls import InferenceCaller

Infer = Callable[..., InferenceCaller]


@pytest.fixture(scope="module")
def inferring(running: Run) -> Iterator[Infer]:
    """A connection to a server that `running` has started; equal arguments share one."""
    with ExitStack() as stack:

        def run(*makers: Make, **config: object) -> InferenceCaller:
            caller = InferenceCaller(running(*makers, **config).port)
            stack.callback(caller.close)
            return caller

        yield _shared(run)


@pytest.fixture(scope="module")
def resting(resting: Rest) -> Rest:
    """A connection to the REST API, shared in the same way."""
    return _shared(resting)


def _shared(start: Callable[..., Any]) -> Callable[..., Any]:
    started: dict[Hashable, Any] = {}

    def run(*makers: Make, **config: object) -> Any:
        like = (*(_named(maker) for maker in makers), *sorted((name, repr(value)) for name, value in config.items()))
        if like not in started:
            started[like] = start(*makers, **config)
        return started[like]

    return run


def _named(maker: Make) -> Hashable:
    """A key that is equal for equal makers: two partials of the same function and arguments do not compare equal."""
    if isinstance(maker, partial):
        return (maker.func, repr(maker.args), repr(sorted(maker.keywords.items())))
    return maker
