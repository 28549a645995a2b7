"""Real S3, as moto has it: listed, fetched, renewed and rolled back; `make test-stores` brings it."""

import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest

from headrace_server.stores.base import StoreError

from .conftest import Watch, shown

URI = "s3://models/iris"
HEADERS = {"Authorization": "AWS test:test", "Content-Type": "application/octet-stream"}
LISTENS = re.compile(r"Running on http://127.0.0.1:(\d+)")


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    command = os.environ.get("HEADRACE_MOTO_SERVER")
    if not command:
        pytest.skip("HEADRACE_MOTO_SERVER names no moto_server: run `make test-stores`")
    server = subprocess.Popen([command, "-H", "127.0.0.1", "-p", "0"], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        port = next(match[1] for line in server.stderr if (match := LISTENS.search(line)))
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()
        if server.stderr is not None:
            server.stderr.close()


@pytest.fixture
def bucket(moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    request(f"{moto}/moto-api/reset", "POST")
    request(f"{moto}/models", "PUT")
    return f"{moto}/models"


def request(url: str, method: str, data: bytes = b"") -> None:
    own = urllib.request.Request(url, data=data, method=method, headers=HEADERS)
    with urllib.request.urlopen(own, timeout=10) as answer:
        answer.read()


def test_a_version_is_fetched_renewed_and_rolled_back(bucket: str, watch: Watch) -> None:
    request(f"{bucket}/iris/1/model.onnx", "PUT", b"one" * 1_000_000)
    mirror = watch(URI, choose=lambda versions: [max(versions)])
    assert not mirror.look()  # somebody may be writing it
    assert mirror.look()
    assert shown(mirror) == {"1": {"model.onnx": b"one" * 1_000_000}}

    request(f"{bucket}/iris/2/model.onnx", "PUT", b"two")
    mirror.look()
    mirror.look()
    assert shown(mirror)["2"] == {"model.onnx": b"two"}

    request(f"{bucket}/iris/2/model.onnx", "DELETE")
    assert mirror.look()
    assert list(shown(mirror)) == ["1"]


def test_a_bucket_that_is_not_there(bucket: str, watch: Watch) -> None:
    del bucket
    with pytest.raises(StoreError, match=r"s3://other/iris: "):
        watch("s3://other/iris").look()
