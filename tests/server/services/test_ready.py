"""The URLs that report whether a server is ready."""

import asyncio

import pytest

from headrace_batching import LoopDelivery
from headrace_server.services.http import HttpRequest
from headrace_server.services.ready import PATHS, ReadyApi
from tests.conftest import Rest
from tests.support import models


@pytest.mark.parametrize("path", PATHS)
def test_a_server_that_serves(resting: Rest, path: str) -> None:
    rest = resting(models.linear)

    assert (rest.get(path).status, rest.get(path).text) == (200, "ready\n")
    assert rest.send("POST", path).status == 405


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
def test_a_draining_server(ready: bool, status: int) -> None:
    async def ask() -> int:
        delivery = LoopDelivery(asyncio.get_running_loop())
        return (await ReadyApi(lambda: ready).answer(HttpRequest("GET", PATHS[0]), delivery)).status

    assert asyncio.run(ask()) == status
