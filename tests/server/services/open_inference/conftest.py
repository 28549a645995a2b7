"""Connections that speak the Open Inference Protocol."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import Make, Run
from tests.server.services.open_inference.calls import InferenceCaller

Infer = Callable[..., InferenceCaller]


@pytest.fixture(scope="module")
def inferring(running: Run) -> Iterator[Infer]:
    """Starts a server in this process, as `running` does; a connection to it."""
    with ExitStack() as stack:

        def run(*makers: Make, **config: object) -> InferenceCaller:
            caller = InferenceCaller(running(*makers, **config).port)
            stack.callback(caller.close)
            return caller

        yield run
