"""A base path in a store, mirrored on this machine: complete versions, outages, and deletions."""

import hashlib
import io
import tarfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headrace_server.stores import base
from headrace_server.stores.base import Changed, StoreError
from headrace_server.stores.cache import Cache
from headrace_server.stores.unpacking import unpack

from .conftest import Watch, as_json, shown
from .files import Files, serving_files

S3 = "s3://bucket/models/iris"
PREFIX = "/bucket/models/iris"


def test_versions_are_added_and_removed(files: Files, watch: Watch) -> None:
    files.content = {f"{PREFIX}/1/model.onnx": b"one", f"{PREFIX}/model.toml": b"", f"{PREFIX}/notes.txt": b"x"}
    mirror = watch(S3)
    assert mirror.look()
    assert shown(mirror) == {"1": {"model.onnx": b"one"}}
    assert (mirror._base_path / "model.toml").read_bytes() == b""

    files.content[f"{PREFIX}/2/deep/er/weights.bin"] = b"two"
    assert mirror.look()
    assert shown(mirror) == {"1": {"model.onnx": b"one"}, "2": {"deep/er/weights.bin": b"two"}}
    assert not mirror.look()  # nothing has changed

    del files.content[f"{PREFIX}/2/deep/er/weights.bin"]
    assert mirror.look()
    assert list(shown(mirror)) == ["1"]


def test_only_selected_versions_are_fetched(files: Files, watch: Watch) -> None:
    files.content = {f"{PREFIX}/{version}/model.onnx": b"x" * version for version in range(1, 6)}
    mirror = watch(S3, choose=lambda versions: sorted(versions, reverse=True)[:1])
    mirror.look()
    assert list(shown(mirror)) == ["5"]
    assert sum(method == "GET" and "model.onnx" in path for method, path, _ in files.asked) == 1


def test_only_changed_files_are_fetched_again(files: Files, watch: Watch) -> None:
    files.content = {f"{PREFIX}/1/model.onnx": b"one"}
    mirror = watch(S3)
    mirror.look()
    files.content[f"{PREFIX}/1/model.onnx"] = b"new"
    assert mirror.look()
    assert shown(mirror) == {"1": {"model.onnx": b"new"}}
    files.content[f"{PREFIX}/1/model.onnx"] = b"one"
    files.asked.clear()
    assert mirror.look()
    assert shown(mirror) == {"1": {"model.onnx": b"one"}}
    assert not [path for _, path, _ in files.asked if "model.onnx" in path]  # the file was still in the cache


def test_a_recently_changed_version_is_left_for_the_next_poll(files: Files, watch: Watch) -> None:
    files.modified = datetime.now(UTC)
    files.content = {f"{PREFIX}/1/a": b"a"}
    mirror = watch(S3)
    assert not mirror.look()
    files.content[f"{PREFIX}/1/b"] = b"b"
    assert not mirror.look()
    assert mirror.look()  # both polls have seen the same names
    assert shown(mirror) == {"1": {"a": b"a", "b": b"b"}}


def test_an_interrupted_fetch_is_resumed(files: Files, watch: Watch, tmp_path: Path) -> None:
    content = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(100_000))  # 3.2 MB
    files.content = {"/m.onnx": content}
    files.cut["/m.onnx"] = 2_500_000
    uri = f"{files.url}/m.onnx"
    with pytest.raises(StoreError, match=uri):
        watch(uri).look()
    assert list((tmp_path / "cache" / "contents").iterdir()) == []

    mirror = watch(uri)  # like the server's next run
    mirror.look()
    assert shown(mirror) == {"1": {"model.onnx": content}}
    begun = int(files.asked[-1][2].removeprefix("bytes=").split("-")[0])
    assert 0 < begun <= 2_500_000


def test_a_server_without_ranges_sends_everything_again(files: Files, watch: Watch) -> None:
    content = bytes(3_000_000)
    files.content, files.cut, files.no_ranges = {"/m.onnx": content}, {"/m.onnx": 2_500_000}, True
    uri = f"{files.url}/m.onnx"
    with pytest.raises(StoreError, match=uri):
        watch(uri).look()
    mirror = watch(uri)
    mirror.look()
    assert shown(mirror) == {"1": {"model.onnx": content}}
    assert [range_ for method, _, range_ in files.asked[-2:] if method == "GET"][-1] == ""


def test_an_outage_keeps_the_versions_and_names_the_uri(files: Files, watch: Watch) -> None:
    files.content = {"/m.onnx": b"one"}
    mirror = watch(f"{files.url}/m.onnx")
    mirror.look()
    files.refuse = 503
    with pytest.raises(StoreError, match=rf"{files.url}/m.onnx: HTTP 503"):
        mirror.look()
    assert shown(mirror) == {"1": {"model.onnx": b"one"}}


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3:///x", "must be s3://BUCKET/PREFIX"),
        ("gs:///x", "must be gs://BUCKET/PREFIX"),
        ("az://container/x", "set AZURE_STORAGE_ACCOUNT_NAME and a key"),
        ("hf://iris", "must be hf://OWNER/NAME"),
        ("oci://host", "must be oci://HOST/REPOSITORY:TAG"),
        ("oci://host/iris:a:b", "must be oci://HOST/REPOSITORY:TAG"),
        ("models:/iris/latest", "must be models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("https:///m.onnx", "cannot be reached: no host given"),
    ],
)
def test_a_wrong_uri_is_named_with_the_right_form(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, uri: str, said: str
) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_USE_EMULATOR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StoreError) as refused:
        watch(uri).look()
    assert str(refused.value).startswith(uri)
    assert said in str(refused.value)


def test_an_unreachable_server(watch: Watch) -> None:
    with pytest.raises(StoreError, match=r"http://127.0.0.1:1/m.onnx: 127.0.0.1:1 cannot be reached"):
        watch("http://127.0.0.1:1/m.onnx").look()


@pytest.mark.parametrize("status", [401, 403])
def test_wrong_credentials_are_named(files: Files, watch: Watch, status: int) -> None:
    files.refuse = status
    with pytest.raises(StoreError, match=r"are the credentials right\?"):
        watch(f"{files.url}/m.onnx").look()
    with pytest.raises(StoreError, match=r"s3://bucket/models/iris: are the credentials right\?"):
        watch(S3).look()


def test_a_file_that_is_deleted_during_a_fetch(files: Files, watch: Watch, cache: Cache) -> None:
    files.content = {f"{PREFIX}/1/a": b"a", f"{PREFIX}/1/b": b"b"}
    mirror = watch(S3)
    listing = mirror._list()
    del files.content[f"{PREFIX}/1/b"]
    mirror._list = lambda: listing
    with pytest.raises(Changed, match=S3):
        mirror.look()
    assert shown(mirror) == {}
    assert not [path for path in (cache.root / "partial").iterdir() if path.is_dir()]


def test_the_cache_survives_a_restart(files: Files, watch: Watch, cache: Cache) -> None:
    files.content = {f"{PREFIX}/1/model.onnx": b"one"}
    watch(S3).look()
    files.asked.clear()
    again = watch(S3, into=Cache(cache.root))
    assert not again.look()
    assert shown(again) == {"1": {"model.onnx": b"one"}}
    assert not [path for _, path, _ in files.asked if "model.onnx" in path]


def test_an_outage_after_a_restart_does_not_free_what_is_served(files: Files, watch: Watch, cache: Cache) -> None:
    files.content = {f"{PREFIX}/1/model.onnx": b"one"}
    watch(S3).look()
    files.refuse = 503
    restarted = Cache(cache.root, most_bytes=4)
    again = watch(S3, into=restarted)
    with pytest.raises(StoreError, match="503"):
        again.look()
    with pytest.raises(StoreError, match="--model_store_cache_mb"):
        restarted.make_room("uri", 2)
    assert shown(again) == {"1": {"model.onnx": b"one"}}


def test_a_damaged_cache_is_filled_again(files: Files, watch: Watch) -> None:
    files.content = {f"{PREFIX}/1/model.onnx": b"one"}
    mirror = watch(S3)
    mirror.look()
    (mirror._base_path / "1" / "model.onnx").write_bytes(b"o")
    watch(S3).look()
    assert shown(mirror) == {"1": {"model.onnx": b"one"}}


def test_a_limited_cache_removes_unused_content(files: Files, watch: Watch, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "small", most_bytes=2_500_000)
    cache.start()
    mirror = watch(S3, into=cache, choose=lambda versions: [max(versions)])
    for version in range(1, 5):
        files.content = {f"{PREFIX}/{version}/m": bytes([version]) * 1_000_000}
        mirror.look()
        assert list(shown(mirror)) == [str(version)]
    assert sum(path.stat().st_size for path in cache.root.rglob("m")) <= 2_500_000

    files.content = {f"{PREFIX}/9/m": b"x" * 3_000_000}
    with pytest.raises(StoreError, match=rf"{S3} takes 3 MB, and --model_store_cache_mb leaves 1 MB"):
        mirror.look()
    assert list(shown(mirror)) == ["4"]


def test_a_fetch_does_not_remove_what_the_same_poll_has_fetched(files: Files, watch: Watch, tmp_path: Path) -> None:
    files.content = {f"{PREFIX}/{version}/model.onnx": bytes([version]) * 2000 for version in (1, 2)}
    limited = Cache(tmp_path / "limited", most_bytes=3000)
    limited.start()
    with pytest.raises(StoreError, match="--model_store_cache_mb"):
        watch(S3, into=limited).look()
    assert len(list((tmp_path / "limited" / "contents").glob("*.json"))) == 1


def test_content_of_two_models_stays_until_both_are_forgotten(files: Files, watch: Watch, tmp_path: Path) -> None:
    files.content = {f"{PREFIX}/1/model.onnx": bytes(2000)}
    limited = Cache(tmp_path / "limited", most_bytes=3000)
    limited.start()
    one, two = watch(S3, into=limited), watch(S3, into=limited, name="another")
    for mirror in (one, two):
        mirror.look()
    one.forget()
    with pytest.raises(StoreError):
        limited.make_room("uri", 2000)
    assert shown(two) == {"1": {"model.onnx": bytes(2000)}}
    two.forget()
    assert limited.make_room("uri", 2000) == 3000


def test_a_tag_that_is_moved_gets_a_new_number_and_back_the_old_one(files: Files, watch: Watch) -> None:
    uri = f"{files.url}/m.onnx"
    numbers = []
    for content in (b"one", b"two", b"one"):
        files.content = {"/m.onnx": content}
        mirror = watch(uri)
        mirror.look()
        ((number, held),) = shown(mirror).items()
        assert held == {"model.onnx": content}
        numbers.append(number)
    assert numbers == ["1", "2", "1"]


def test_checksums_among_the_files_are_compared(files: Files, watch: Watch) -> None:
    good = hashlib.sha256(b"one").hexdigest()
    files.content = {f"{PREFIX}/1/model.onnx": b"one", f"{PREFIX}/1/SHA256SUMS": f"{good}  model.onnx\n".encode()}
    watch(S3).look()
    files.content[f"{PREFIX}/2/model.onnx"] = b"bad"
    files.content[f"{PREFIX}/2/SHA256SUMS"] = files.content[f"{PREFIX}/1/SHA256SUMS"]
    mirror = watch(S3)
    with pytest.raises(StoreError, match=r"model.onnx is not what SHA256SUMS says"):
        mirror.look()
    assert "2" not in shown(mirror)


@pytest.mark.parametrize("key", ["../../outside", "1/../../outside", "1/a\0b", "/etc/passwd"])
@pytest.mark.usefixtures("files")
def test_a_key_that_leads_out_of_the_folder_is_refused(watch: Watch, tmp_path: Path, key: str) -> None:
    mirror = watch(S3)
    mirror._list = lambda: base.Listing([base.RemoteFile(key, 1, "t")])
    with pytest.raises(StoreError, match=r"leads out of its folder"):
        mirror.look()
    assert not (tmp_path / "outside").exists()


class TestArchives:
    def test_one_model(self, files: Files, watch: Watch) -> None:
        files.content = {"/m.tar.gz": tar({"iris/model.onnx": b"one", "iris/model.toml": b"[batching]\n"})}
        mirror = watch(f"{files.url}/m.tar.gz")
        assert mirror.look()
        assert shown(mirror)["1"]["model.onnx"] == b"one"
        assert (mirror._base_path / "model.toml").read_bytes() == b"[batching]\n"

    def test_numbered_versions(self, files: Files, watch: Watch) -> None:
        files.content = {"/m.zip": zipped({"iris/3/model.onnx": b"three", "iris/4/model.onnx": b"four"})}
        mirror = watch(f"{files.url}/m.zip")
        mirror.look()
        assert shown(mirror) == {"3": {"model.onnx": b"three"}, "4": {"model.onnx": b"four"}}

    @pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../out"])
    @pytest.mark.parametrize("kind", ["tar", "zip"])
    def test_names_that_lead_out_of_the_folder(self, tmp_path: Path, name: str, kind: str) -> None:
        with pytest.raises(StoreError, match=r"leads out of its folder"):
            unpacked(tmp_path, (tar if kind == "tar" else zipped)({name: b"x"}))
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
    def test_entries_that_are_neither_files_nor_folders(self, tmp_path: Path, kind: bytes) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            entry = tarfile.TarInfo("link")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
        with pytest.raises(StoreError, match=r"link in its archive is neither a file nor a folder"):
            unpacked(tmp_path, buffer.getvalue())

    def test_a_decompression_bomb(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"contains more than the 1 MB"):
            unpacked(tmp_path, zipped({"zeros": b"\0" * 50_000_000}), most=1 << 20)
        assert sum(path.stat().st_size for path in tmp_path.rglob("zeros")) <= 2 << 20

    def test_a_file_that_is_not_an_archive(self, tmp_path: Path) -> None:
        for data in (b"no archive", tar({"a": b"x" * 1000})[:60], b""):
            with pytest.raises(StoreError, match=r"cannot be unpacked"):
                unpacked(tmp_path, data)


class TestHuggingFace:
    def test_files_at_a_commit(self, files: Files, watch: Watch) -> None:
        model = b"weights"
        entry = {"type": "file", "size": len(model), "oid": "blob1", "path": "onnx/model.onnx"}
        lfs = {**entry, "lfs": {"oid": hashlib.sha256(model).hexdigest(), "size": len(model)}}
        files.content = {
            "/api/models/me/iris/revision/main": as_json({"sha": "c0ffee"}),
            "/api/models/me/iris/tree/c0ffee/onnx?recursive=true": as_json(
                [{"type": "directory", "path": "onnx"}, lfs]
            ),
            "/me/iris/resolve/c0ffee/onnx/model.onnx": model,
        }
        mirror = watch("hf://me/iris/onnx")
        mirror.look()
        assert shown(mirror) == {"1": {"model.onnx": model}}

        files.content["/me/iris/resolve/c0ffee/onnx/model.onnx"] = b"wrongly"
        with pytest.raises(StoreError, match=r"hf://me/iris@main/onnx: the SHA-256 of model\.onnx must be"):
            watch("hf://me/iris@main/onnx").look()

    def test_an_invalid_uri(self, watch: Watch) -> None:
        with pytest.raises(StoreError, match=r"hf://iris must be hf://OWNER/NAME"):
            watch("hf://iris")


class TestOci:
    def test_layers_by_title_and_as_archives(self, files: Files, watch: Watch) -> None:
        file, packed = b"[batching]\n", tar({"model.onnx": b"one"})
        digests = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in (file, packed)]
        title = {"org.opencontainers.image.title": "model.toml"}
        layers = [
            {"digest": digests[0], "size": len(file), "mediaType": "text/plain", "annotations": title},
            {"digest": digests[1], "size": len(packed), "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"},
        ]
        files.content = {
            "/v2/team/iris/manifests/v1": as_json({"layers": layers}),
            f"/v2/team/iris/blobs/{digests[0]}": file,
            f"/v2/team/iris/blobs/{digests[1]}": packed,
        }
        mirror = watch(f"oci://127.0.0.1:{files.port}/team/iris:v1")
        mirror.look()
        assert shown(mirror)["1"] == {"model.onnx": b"one", "model.toml": file}

    def test_a_password_is_sent_on_request(self, files: Files, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
        files.token = "Basic bWU6c2VjcmV0"
        files.content = {"/v2/iris/manifests/latest": as_json({"layers": []})}
        uri = f"oci://127.0.0.1:{files.port}/iris"
        with pytest.raises(StoreError, match=r"are the credentials right\?"):
            watch(uri).look()
        monkeypatch.setenv("HEADRACE_OCI_USER", "me")
        monkeypatch.setenv("HEADRACE_OCI_PASSWORD", "secret")
        with pytest.raises(Changed, match=r"there are no files below it"):
            watch(uri).look()


class TestMlflow:
    def test_the_version_of_an_alias(self, files: Files, watch: Watch) -> None:
        artifacts = "/api/2.0/mlflow-artifacts/artifacts"
        files.content = {
            "/api/2.0/mlflow/model-versions/get-download-uri?name=iris&version=7": as_json(
                {"artifact_uri": "mlflow-artifacts:/1/models/m-7/artifacts"}
            ),
            "/api/2.0/mlflow/registered-models/alias?name=iris&alias=champion": as_json(
                {"model_version": {"version": "7"}}
            ),
            f"{artifacts}?path=1%2Fmodels%2Fm-7%2Fartifacts": as_json(
                {"files": [{"path": "model.onnx", "is_dir": False, "file_size": 3}]}
            ),
            f"{artifacts}/1/models/m-7/artifacts/model.onnx": b"one",
        }
        mirror = watch("models:/iris@champion")
        mirror.look()
        assert shown(mirror) == {"7": {"model.onnx": b"one"}}

    def test_without_a_server(self, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with pytest.raises(StoreError, match=r"MLFLOW_TRACKING_URI must be the URL of an MLflow server; was ''"):
            watch("models:/iris@champion")


def test_a_token_goes_to_no_other_host(files: Files, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HTTP_TOKEN", "secret")
    with serving_files() as other:
        files.redirect["/m.onnx"] = f"{other.url}/elsewhere.onnx"
        other.content = {"/elsewhere.onnx": b"one"}
        mirror = watch(f"{files.url}/m.onnx")
        mirror.look()
        assert shown(mirror) == {"1": {"model.onnx": b"one"}}
        assert set(files.tokens) == {"Bearer secret"}
        assert set(other.tokens) == {""}


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def unpacked(root: Path, data: bytes, most: int = 1 << 30) -> None:
    into = root / "into"
    into.mkdir(exist_ok=True)
    (root / "archive").write_bytes(data)
    unpack("https://host/archive", root / "archive", into, most)
