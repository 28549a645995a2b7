"""Stores that send more than they list, refer to other servers, or whose URIs contain secrets."""

import hashlib
import logging
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace_server.stores import fetching
from headrace_server.stores.base import Listing, RemoteFile, StoreError, without_secrets
from headrace_server.stores.cache import Cache
from headrace_server.stores.uris import open_store
from headrace_server.stores.web import Web

from .conftest import Watch, as_json, shown
from .files import Files, serving_files
from .test_mirror import tar, zipped

MEGABYTES = 4


def bomb() -> bytes:
    return zipped({"model/zeros": bytes(MEGABYTES << 20)})


def packed_bomb() -> bytes:
    return tar({"model/zeros": bytes(MEGABYTES << 20)})


@pytest.mark.parametrize("make", [bomb, packed_bomb])
def test_an_archive_that_cannot_be_unpacked_leaves_nothing(
    files: Files, watch: Watch, tmp_path: Path, make: Callable[[], bytes]
) -> None:
    own = Cache(tmp_path / "small", 1 << 20)
    own.start()
    name = "m.zip" if make is bomb else "m.tar.gz"
    files.content = {f"/{name}": make()}
    with pytest.raises(StoreError, match="its archive contains more than the 1 MB"):
        watch(f"{files.url}/{name}", into=own).look()
    assert sum(path.stat().st_size for path in own.root.rglob("*") if path.is_file()) < 1 << 20


def test_damaged_data_in_an_archive_is_reported_as_such(
    files: Files, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpack(*_: object) -> None:
        raise zlib.error("Error -3 while decompressing data")

    files.content = {"/m.zip": zipped({"model.onnx": b"one"})}
    monkeypatch.setattr("headrace_server.stores.unpacking._unpack_zip", unpack)
    with pytest.raises(StoreError, match=r"m\.zip\.part cannot be unpacked: Error -3"):
        watch(f"{files.url}/m.zip").look()


@pytest.mark.parametrize("listed", [1, 3, -1])
def test_a_file_that_is_larger_than_the_store_says(
    files: Files, watch: Watch, monkeypatch: pytest.MonkeyPatch, listed: int
) -> None:
    files.content = {"/m.onnx": b"0123456789"}
    mirror = watch(f"{files.url}/m.onnx")
    mirror._list = lambda: Listing([RemoteFile("m.onnx", listed, "", key=f"{files.url}/m.onnx")])
    monkeypatch.setattr(Cache, "make_room", lambda *_: 5)
    most = listed if listed >= 0 else 5
    with pytest.raises(StoreError, match=f"has more than the {most} bytes that were expected"):
        mirror.look()
    assert not [path for path in mirror._cache.root.rglob("*.part") if path.stat().st_size]


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1:1/x", "data:,x", "gopher://127.0.0.1/"])
def test_a_redirect_to_anything_but_http(files: Files, target: str) -> None:
    files.redirect["/m.onnx"] = target
    with pytest.raises(StoreError, match="HTTP 302"):
        Web("uri", files.url).document(f"{files.url}/m.onnx")
    with pytest.raises(StoreError, match="must begin with https:// or http://"):
        Web("uri", files.url).document(target)


def test_the_error_of_a_redirect_reads_as_a_sentence(files: Files) -> None:
    files.redirect["/m.onnx"] = "ftp://127.0.0.1:1/x"
    with pytest.raises(StoreError) as error:
        Web("uri", files.url).document(f"{files.url}/m.onnx")
    expected = f"uri: HTTP 302 Found (a redirect to a URL that is not HTTP) for {files.url}/m.onnx"
    assert str(error.value) == expected


def test_the_next_part_of_a_list_on_another_host_gets_no_token(
    files: Files, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    entry = {"type": "file", "size": 3, "oid": "blob1", "path": "model.onnx"}
    with serving_files() as other:
        tree = "/api/models/me/iris/tree/c0ffee?recursive=true"
        files.content = {
            "/api/models/me/iris/revision/main": as_json({"sha": "c0ffee"}),
            tree: as_json([entry]),
            "/me/iris/resolve/c0ffee/model.onnx": b"one",
        }
        files.headers[tree] = {"Link": f'<{other.url}/more>; rel="next"'}
        other.content = {"/more": as_json([])}
        mirror = watch("hf://me/iris")
        mirror.look()
        assert shown(mirror) == {"1": {"model.onnx": b"one"}}
        assert (set(files.tokens), set(other.tokens)) == ({"Bearer secret"}, {""})


@pytest.mark.parametrize("realm", ["http://192.0.2.1/token", "file:///etc/passwd", ""])
def test_a_registry_that_asks_for_the_password_where_others_could_read_it(
    files: Files, watch: Watch, monkeypatch: pytest.MonkeyPatch, realm: str
) -> None:
    monkeypatch.setenv("HEADRACE_OCI_USER", "me")
    monkeypatch.setenv("HEADRACE_OCI_PASSWORD", "secret")
    files.token = "Bearer x"
    files.headers["challenge"] = {"value": f'Bearer realm="{realm}",service="s"'}
    with pytest.raises(StoreError, match=r"its registry asks for a password at '.*'; it must begin with https://"):
        watch(f"oci://127.0.0.1:{files.port}/iris").look()


@pytest.mark.parametrize("changed", ["manifest", "manifest of an index", "kind of digest"])
def test_what_a_registry_sends_has_the_digest_that_was_asked_for(files: Files, watch: Watch, changed: str) -> None:
    def digest(data: bytes) -> str:
        return f"sha256:{hashlib.sha256(data).hexdigest()}"

    kind = "sha512" if changed == "kind of digest" else "sha256"
    title = {"org.opencontainers.image.title": "model.onnx"}
    layer = {"digest": f"{kind}:{hashlib.new(kind, b'one').hexdigest()}", "size": 3, "annotations": title}
    manifest = as_json({"layers": [layer]})
    index = as_json({"manifests": [{"digest": digest(manifest)}]})
    top = index if changed == "manifest of an index" else manifest
    base = "/v2/iris"
    files.content = {
        f"{base}/manifests/{digest(index)}": index,
        f"{base}/manifests/{digest(manifest)}": manifest if changed == "kind of digest" else manifest + b" ",
        f"{base}/blobs/{layer['digest']}": b"one",
    }
    uri = f"oci://127.0.0.1:{files.port}/iris@{digest(top)}"
    with pytest.raises(StoreError, match=r"the digest of its manifest must be sha256|digests must be sha256 and 64"):
        watch(uri).look()
    layer["digest"] = digest(b"one")
    manifest = as_json({"layers": [layer]})
    files.content = {f"{base}/manifests/{digest(manifest)}": manifest, f"{base}/blobs/{layer['digest']}": b"one"}
    mirror = watch(f"oci://127.0.0.1:{files.port}/iris@{digest(manifest)}")
    mirror.look()
    assert shown(mirror) == {"1": {"model.onnx": b"one"}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:pw@host/m.onnx: no", "https://***@host/m.onnx: no"),
        ("for https://host/m?sig=a%2Fb&se=2026: no", "for https://host/m?sig=***&se=***: no"),
        ("'https://host/m?token=abc' and s3://bucket/x", "'https://host/m?token=***' and s3://bucket/x"),
        ("oci://host/r:tag@sha256:ab, hf://a/b@main/c", "oci://host/r:tag@sha256:ab, hf://a/b@main/c"),
    ],
)
def test_secrets_in_urls(text: str, expected: str) -> None:
    assert without_secrets(text) == expected == str(StoreError(text))


def test_no_secret_of_a_uri_is_logged(files: Files, watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    files.content = {"/m.onnx?sig=secret": b"one"}
    with caplog.at_level(logging.INFO, fetching.__name__):
        watch(f"{files.url}/m.onnx?sig=secret").look()
    assert f"from {files.url}/m.onnx?sig=***" in caplog.text
    assert "secret" not in caplog.text
    with pytest.raises(StoreError, match=r"https://\*\*\*@host/m\.onnx must not contain a password") as error:
        open_store("https://me:secret@host/m.onnx")
    assert "secret" not in str(error.value)
