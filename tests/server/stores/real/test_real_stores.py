"""Models in real stores: serving, updates, rollbacks, outages, wrong credentials, and a model of 2 GB."""

import hashlib
import os
from pathlib import Path

import pytest

from headrace_server import Config
from headrace_server.config.model_config import ModelConfig
from headrace_server.config.stores import StoreOptions
from headrace_server.stores.base import StoreError
from tests.server.stores.conftest import Watch
from tests.server.stores.real.kinds import RealStore
from tests.support import models
from tests.support.calls import floats
from tests.support.running import LoopThread, RunningServer, eventually

WITHIN = 120.0
"""Seconds for two polls of a store, a download and a load."""

LARGE_MB = int(os.environ.get("HEADRACE_STORE_MB", "2048"))


def serve(loop: LoopThread, uri: str, cache: Path) -> RunningServer:
    config = Config(
        port=0,
        models=(ModelConfig("model", Path(), uri=uri),),
        stores=StoreOptions(cache=str(cache), poll_seconds=1),
        file_system_poll_wait_seconds=0.05,
    )
    return RunningServer(loop, config)


def answer(server: RunningServer) -> float:
    return float(server.caller.predict({"x": floats([1, 2, 3, 4])})["y"][0, 0])


def onnx(folder: Path, bias: float) -> Path:
    return models.linear(folder / str(bias), bias=bias)


def failures(server: RunningServer) -> int:
    return server._server._models.mirrors._watched["model"].failures


def test_served_updated_rolled_back_and_kept_through_an_outage(
    store: RealStore, loop_thread: LoopThread, tmp_path: Path
) -> None:
    store.publish(1, onnx(tmp_path, 1.0))
    server = serve(loop_thread, store.uri, tmp_path / "cache")
    try:
        assert answer(server) == 11
        store.publish(2, onnx(tmp_path, 2.0))
        eventually(lambda: answer(server) == 12, WITHIN)
        store.roll_back()
        eventually(lambda: answer(server) == 11, WITHIN)

        store.proxy.go_down()
        eventually(lambda: failures(server) >= 1, WITHIN)
        assert answer(server) == 11
        store.proxy.come_up()
        eventually(lambda: failures(server) == 0, WITHIN)
        store.publish(3, onnx(tmp_path, 3.0))
        eventually(lambda: answer(server) == 13, WITHIN)
    finally:
        server.close()

    store.proxy.go_down()
    again = serve(loop_thread, store.uri, tmp_path / "cache")  # from the copy on disk
    try:
        assert answer(again) == 13
    finally:
        again.close()


def test_wrong_credentials_say_so(
    store: RealStore, watch: Watch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if store.wrong is None:
        pytest.skip("its server knows no credentials")
    store.publish(1, onnx(tmp_path, 1.0))
    for name, value in store.wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match="are the credentials right") as refused:
        watch(store.uri).look()
    assert store.uri in str(refused.value)


def test_an_unreachable_store_and_a_missing_model_are_named(store: RealStore, watch: Watch) -> None:
    with pytest.raises(StoreError) as missing:
        watch(store.uri).look()
    assert store.uri in str(missing.value)
    store.proxy.go_down()
    with pytest.raises(StoreError) as gone:
        watch(store.uri).look()
    assert store.uri in str(gone.value)


def test_a_large_model_is_resumed_after_a_cut(store: RealStore, watch: Watch, tmp_path: Path) -> None:
    file, digest = large_file(tmp_path / "large")
    store.publish(1, file)
    size = file.stat().st_size
    file.unlink()
    store.proxy.cut_after = store.proxy.passed + size // 2
    mirror = watch(store.uri)
    with pytest.raises(StoreError) as cut:
        eventually(mirror.look, WITHIN)  # an object store's version is fetched once two polls agree
    assert store.uri in str(cut.value)
    parts = (tmp_path / "cache" / "partial").rglob("*.part")
    assert [0 < part.stat().st_size < size for part in parts] == [True]

    store.proxy.come_up()
    store.proxy.passed = 0
    mirror = watch(store.uri)  # like the server's next run
    eventually(mirror.look, WITHIN)
    (version,) = (path for path in mirror._base_path.iterdir() if path.is_symlink())
    with (version / "model.onnx").open("rb") as fetched:
        assert hashlib.file_digest(fetched, "sha256").hexdigest() == digest
    assert store.proxy.passed < size * 0.7  # the first half was not sent again


def large_file(path: Path) -> tuple[Path, str]:
    """A file of LARGE_MB, all of whose megabytes differ, and its hash."""
    digest = hashlib.sha256()
    block = os.urandom((1 << 20) - 8)
    with path.open("wb") as file:
        for number in range(LARGE_MB):
            for part in (number.to_bytes(8), block):
                file.write(part)
                digest.update(part)
    return path, digest.hexdigest()
