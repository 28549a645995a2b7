"""Sealed versions: only the right key opens them."""

import base64
import io
import os
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from headrace_server.errors import LoadError, ServingError
from headrace_server.security.models.archive import BadSeal
from headrace_server.security.models.model_keys import KeySource, ModelKeys, key_id
from headrace_server.security.models.opening import Opener
from headrace_server.security.models.roots import Root, Trust
from headrace_server.security.models.sealed import CHUNK, HEADER_BYTES, Sealing, open_sealed, seal_files
from headrace_server.security.models.signing import sign
from headrace_server.security.models.trust import Signers
from tests.support.signing import key_pair

KEY = bytes(range(32))
TAG = 16


def sealed(folder: Path, files: Mapping[str, bytes], key: bytes = KEY) -> bytes:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    out = io.BytesIO()
    seal_files({name: folder / name for name in files}, key, out)
    return out.getvalue()


def opened(archive: bytes, *keys: bytes) -> dict[str, bytes]:
    files = open_sealed(io.BytesIO(archive), lambda: ModelKeys({key_id(key): key for key in keys or (KEY,)}))
    try:
        return {name: file.path.read_bytes() for name, file in files.items()}
    finally:
        for file in files.values():
            file.close()


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
def test_opening_returns_the_sealed_files(tmp_path: Path, size: int) -> None:
    files = {"model.onnx": os.urandom(size), "inner/empty": b"", "ü" * 120: b"x"}
    assert opened(sealed(tmp_path, files)) == files


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1])
def test_chunks_end_where_the_format_says(size: int) -> None:
    out = io.BytesIO()
    sealing = Sealing(KEY, out)
    sealing.write(bytes(size))
    sealing.finish()
    chunks = max(1, -(-size // CHUNK))
    assert len(out.getvalue()) == HEADER_BYTES + size + chunks * TAG


def test_each_bit_counts(tmp_path: Path) -> None:
    archive = sealed(tmp_path, {"model.onnx": b"weights"})
    for at in (*range(HEADER_BYTES), *range(HEADER_BYTES, len(archive), 97), len(archive) - 1):
        for bit in range(8):
            bad = bytearray(archive)
            bad[at] ^= 1 << bit
            with pytest.raises(BadSeal):
                opened(bytes(bad))


def test_chunks_cannot_be_moved_repeated_left_out_or_taken_from_another(tmp_path: Path) -> None:
    content = os.urandom(3 * CHUNK)
    archive, other = (sealed(tmp_path, {"model.onnx": content}) for _ in range(2))
    head, step = HEADER_BYTES, CHUNK + TAG
    parts = [archive[at : at + step] for at in range(head, len(archive), step)]
    first, second, *rest = parts
    for wrong in (
        [second, first, *rest],
        [first, first, second, *rest],
        [first, *rest],
        parts[:-1],
        [other[head : head + step], second, *rest],
        [*parts, parts[-1]],
    ):
        with pytest.raises(BadSeal, match="changed or truncated"):
            opened(archive[:head] + b"".join(wrong))
    for cut in (0, 10, head, head + 1, head + step, len(archive) - 1):
        with pytest.raises(BadSeal):
            opened(archive[:cut])


def test_the_key_that_is_missing_is_named(tmp_path: Path) -> None:
    archive = sealed(tmp_path, {"model.onnx": b"x"})
    other = os.urandom(32)
    with pytest.raises(BadSeal, match=f"sealed with the key {key_id(KEY).hex()}, which the server does not have"):
        opened(archive, other)
    assert opened(archive, other, KEY) == {"model.onnx": b"x"}


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a/./b", ".", "a//b"])
def test_names_outside_the_version(name: str) -> None:
    with pytest.raises(BadSeal, match="which is not a file of the version"):
        opened(_archive(tarfile.TarInfo(name)))


def test_links_devices_and_repeated_files() -> None:
    link, device = tarfile.TarInfo("a"), tarfile.TarInfo("b")
    link.type, link.linkname, device.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.CHRTYPE
    for members in ([link], [device], [tarfile.TarInfo("c"), tarfile.TarInfo("c")]):
        with pytest.raises(BadSeal, match="which is not a file of the version"):
            opened(_archive(*members))


def _archive(*members: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    sealing = Sealing(KEY, out)
    with tarfile.open(fileobj=sealing, mode="w|") as archive:
        for member in members:
            archive.addfile(member)
    sealing.finish()
    return out.getvalue()


def test_opened_files_cannot_be_changed(tmp_path: Path) -> None:
    files = open_sealed(io.BytesIO(sealed(tmp_path, {"a": b"one"})), lambda: ModelKeys({key_id(KEY): KEY}))
    descriptor = os.open(files["a"].path, os.O_RDWR)
    with pytest.raises(PermissionError):
        os.write(descriptor, b"two")
    with pytest.raises(PermissionError):
        os.truncate(descriptor, 0)
    os.close(descriptor)
    assert files["a"].path.read_bytes() == b"one"
    files["a"].close()


def test_keys_come_from_a_file_the_environment_and_a_command(tmp_path: Path) -> None:
    one, two, three = (os.urandom(32) for _ in range(3))
    text = [base64.b64encode(key).decode() for key in (one, two, three)]
    file = tmp_path / "keys"
    file.write_text(f"# rotated in May\n{text[0]}\n\n")
    source = KeySource(str(file), f"echo {text[2]}", f"{text[1]}\n")

    assert set(source.keys().by_id.values()) == {one, two, three}
    assert text[1] not in repr(source)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (KeySource("/no/such/file"), "/no/such/file: No such file"),
        (KeySource(command="echo it is down >&2; exit 3"), "--model_keys_command ended with status 3: it is down"),
        (KeySource(variable="secret"), "HEADRACE_MODEL_KEYS: line 1 must be 32 bytes in base64"),
        (KeySource(variable=base64.b64encode(b"short").decode()), "line 1 must be 32 bytes"),
        (KeySource(variable="sécret"), "line 1 must be 32 bytes"),
        (KeySource(sys.executable), "must be text: a key in base64, or an age identity, in each line"),
        (KeySource(command=r"printf '\377'"), "--model_keys_command failed: UnicodeDecodeError"),
    ],
)
def test_keys_that_cannot_be_read(source: KeySource, said: str) -> None:
    with pytest.raises(ServingError) as error:
        source.keys()
    assert said in error.value.message
    assert "secret" not in error.value.message


def version_of(tmp_path: Path) -> Path:
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    plain = tmp_path / "plain"
    plain.mkdir()
    (version / "model.sealed").write_bytes(sealed(plain, {"model.onnx": b"weights", "inner/more": b"more"}))
    return version


def opener(*signers: Path) -> Opener:
    root = Root(Path("/"), bool(signers), Signers(signers) if signers else None)
    return Opener(Trust(root, []), KeySource(variable=base64.b64encode(KEY).decode()))


def test_a_sealed_version(tmp_path: Path) -> None:
    version = version_of(tmp_path)
    found = opener().open(version)
    assert (found.path / "model.onnx").read_bytes() == b"weights"
    assert (found.path / "inner" / "more").read_bytes() == b"more"
    assert not (found.path / "model.sealed").exists()
    found.close()
    (version / "model.sealed").write_bytes(b"nothing")
    with pytest.raises(LoadError) as error:
        opener().open(version)
    assert error.value.message == f"{version} is not loaded: model.sealed: it is not a sealed model"


def test_unencrypted_files_next_to_it_are_not_used(tmp_path: Path) -> None:
    version = version_of(tmp_path)
    (version / "model.py").write_text("evil")
    found = opener().open(version)
    assert sorted(each.name for each in found.path.iterdir()) == ["inner", "model.onnx"]
    found.close()


def test_the_signature_covers_the_sealed_file(tmp_path: Path) -> None:
    version, signer = version_of(tmp_path), key_pair(tmp_path)
    sign(version, signer.private)
    found = opener(signer.public).open(version)
    assert (found.path / "model.onnx").read_bytes() == b"weights"
    found.close()
    plain = tmp_path / "other"
    plain.mkdir()
    (version / "model.sealed").write_bytes(sealed(plain, {"model.onnx": b"of who has the key, and no signature"}))
    with pytest.raises(LoadError, match=r"model\.sealed is not the file that was signed"):
        opener(signer.public).open(version)
    sign(version, signer.private)
    (version / "README").write_text("in clear")
    sign(version, signer.private)
    with pytest.raises(LoadError, match="README is next to it unencrypted"):
        opener(signer.public).open(version)
