"""A shelf of versions with a running manager, or a loader of real models, for each test that needs one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shop import Shop

from .shelf import Models, Shelf


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    shelf = Shelf()
    shelf.threads.start()
    yield shelf
    for event in shelf.held.values():
        event.set()
    shelf.threads.close()


@pytest.fixture
def models(shelf: Shelf) -> Iterator[Models]:
    models = Models(shelf)
    models.manager.start()
    yield models
    for event in shelf.held.values():
        event.set()
    models.manager.stop()
    assert all(backend.closed for backend in shelf.backends.values())


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.close()
