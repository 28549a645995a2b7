"""A server of files, and base paths on this machine that mirror it."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace_server.config.stores import StoreOptions
from headrace_server.stores.cache import Cache
from headrace_server.stores.fetching import Fetching
from headrace_server.stores.mirror import Choose, Mirror
from headrace_server.stores.uris import open_store

from .files import Files, serving_files

Watch = Callable[..., Mirror]


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving_files() as files:
        monkeypatch.setenv("AWS_ENDPOINT_URL", files.url)
        monkeypatch.setenv("HF_ENDPOINT", files.url)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", files.url)
        yield files


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path / "cache")
    cache.start()
    return cache


def every(versions: object) -> list[int]:
    assert hasattr(versions, "__iter__")
    return sorted(versions, reverse=True)


@pytest.fixture
def watch(cache: Cache) -> Watch:
    """Makes a mirror of a URI; it selects all versions unless `choose` is given."""

    def make(uri: str, *, choose: Choose = every, into: Cache | None = None, name: str = "m") -> Mirror:
        own, store = into or cache, open_store(uri)
        return Mirror(uri, Fetching(uri, store, own), store.list, own, own.model(name, uri), choose)

    return make


def shown(mirror: Mirror) -> dict[str, dict[str, bytes]]:
    """The files of each version in a mirror, by their paths."""
    base = mirror._base_path
    return {
        version.name: {
            str(path.relative_to(version.resolve())): path.read_bytes()
            for path in version.resolve().rglob("*")
            if path.is_file()
        }
        for version in base.iterdir()
        if version.is_symlink()
    }


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


OPTIONS = StoreOptions(poll_seconds=1)
logging.getLogger("obstore").setLevel(logging.ERROR)
