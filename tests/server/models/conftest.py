"""A shelf of versions, and a manager at work on it, for each test that asks."""

from collections.abc import Iterator

import pytest

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
