"""Each kind of real store in turn, with its server, a proxy in front of it, and the environment for headrace."""

import shutil
from collections.abc import Iterator

import pytest

from tests.server.stores.real.kinds import KINDS, RealStore


@pytest.fixture(params=[*KINDS])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RealStore]:
    """A store without a version."""
    folder = tmp_path_factory.mktemp("store")
    with KINDS[request.param](folder) as store:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        yield store
    shutil.rmtree(folder)  # gigabytes, before the next store fills its own
