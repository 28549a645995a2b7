"""Versions that are sealed for age recipients: only an identity that belongs to one of them opens them."""

import io
import os
import re
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from headrace_server.commands.headrace import main
from headrace_server.errors import ServingError
from headrace_server.security.models.age import recipients_of, seal_for
from headrace_server.security.models.archive import BadSeal
from headrace_server.security.models.model_keys import KeySource, ModelKeys
from headrace_server.security.models.sealed import open_sealed

pyrage = pytest.importorskip("pyrage", reason="the extra age is not installed")

FILES = {"model.onnx": os.urandom(300_000), "inner/empty": b"", "ü" * 120: b"x"}


def identity() -> Any:
    return pyrage.x25519.Identity.generate()


def sealed(folder: Path, *recipients: Any) -> bytes:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    out = io.BytesIO()
    seal_for({name: folder / name for name in FILES}, recipients_of([str(each) for each in recipients]), out)
    return out.getvalue()


def opened(archive: bytes, *identities: Any) -> dict[str, bytes]:
    keys = ModelKeys(identities=tuple((str(each), "keys: line 1") for each in identities))
    files = open_sealed(io.BytesIO(archive), lambda: keys)
    try:
        return {name: file.path.read_bytes() for name, file in files.items()}
    finally:
        for file in files.values():
            file.close()


def test_each_recipient_opens_what_was_sealed(tmp_path: Path) -> None:
    one, two = identity(), identity()
    archive = sealed(tmp_path, one.to_public(), two.to_public())
    assert opened(archive, one) == opened(archive, two) == opened(archive, identity(), two) == FILES


def test_a_tar_archive_that_age_encrypted_is_a_sealed_model(tmp_path: Path) -> None:
    """The archive has directories, and names that begin with a dot, as tar writes them for a folder."""
    own = identity()
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "weights").write_bytes(b"weights")
    plain = subprocess.check_output(["tar", "c", "-C", tmp_path, "."])
    assert opened(pyrage.encrypt(plain, [own.to_public()]), own) == {"inner/weights": b"weights"}


def test_a_changed_bit_is_noticed(tmp_path: Path) -> None:
    own = identity()
    archive = sealed(tmp_path, own.to_public())
    payload = archive.index(b"\n---") + 50
    for at in (*range(0, payload, 11), *range(payload, len(archive), 30_011), len(archive) - 1):
        bad = bytearray(archive)
        bad[at] ^= 1 << at % 8
        with pytest.raises(BadSeal, match=r"changed or truncated|not a sealed model|none of the age identities"):
            opened(bytes(bad), own)


def test_a_truncated_archive_is_noticed(tmp_path: Path) -> None:
    own = identity()
    archive = sealed(tmp_path, own.to_public())
    for length in (25, 100, 300, 70_000, len(archive) - 20_000, len(archive) - 1):
        with pytest.raises(BadSeal, match=r"^it has been changed or truncated"):
            opened(archive[:length], own)


def test_no_descriptor_and_no_thread_is_left_behind(tmp_path: Path) -> None:
    own = identity()
    archive, descriptors = sealed(tmp_path, own.to_public()), len(os.listdir("/proc/self/fd"))
    link = tarfile.TarInfo("a")
    link.type, link.linkname, plain = tarfile.SYMTYPE, "/etc/passwd", io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("b" * 90))
    plain.write(bytes(5 << 20))  # more than fits into the pipe after the refusal
    for bad in (archive[:-1], archive[:70_000], pyrage.encrypt(plain.getvalue(), [own.to_public()])):
        with pytest.raises(BadSeal):
            opened(bad, own)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert "age" not in [thread.name for thread in threading.enumerate()]


def test_a_wrong_or_missing_identity(tmp_path: Path) -> None:
    archive = sealed(tmp_path, identity().to_public())
    with pytest.raises(BadSeal, match="none of the age identities belongs to one of them"):
        opened(archive, identity())
    with pytest.raises(BadSeal, match="there is no age identity"):
        opened(archive)


def test_identities_come_from_the_file_that_age_keygen_writes(tmp_path: Path) -> None:
    one, two, three = identity(), identity(), identity()
    file = tmp_path / "keys"
    file.write_text(f"# created: 2026-01-01T12:00:00Z\n# public key: {one.to_public()}\n{one}\n")
    source = KeySource(str(file), f"echo {three}", f"{two}\n")
    assert [text for text, _ in source.keys().identities] == [str(one), str(two), str(three)]
    assert "AGE-SECRET" not in repr(source.keys())


def test_an_invalid_identity_is_reported_without_it() -> None:
    with pytest.raises(ServingError, match="keys: line 3 must be an age identity") as error:
        open_sealed(
            io.BytesIO(b"age-encryption.org/v1\n"), lambda: ModelKeys({}, (("AGE-SECRET-KEY-1X", "keys: line 3"),))
        )
    assert "1X" not in error.value.message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--recipient=age1xyz"], "--recipient must be an age recipient (age1...); was 'age1xyz'"),
        (["--recipient=ssh-ed25519 AAAA"], "--recipient must be an age recipient"),
        (["--recipient={age}", "--model_keys_file=k"], "--recipient cannot be combined with --model_keys_file"),
        ([], "there is no key: give --recipient"),
    ],
)
def test_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str) -> None:
    version, out = tmp_path / "1", tmp_path / "out"
    version.mkdir()
    recipient = str(identity().to_public())
    assert main(["seal", str(version), str(out), *(each.format(age=recipient) for each in options)]) != 0
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_an_identity_in_place_of_a_recipient_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version, secret = tmp_path / "1", str(identity())
    version.mkdir()
    assert main(["seal", str(version), str(tmp_path / "out"), f"--recipient={secret}"]) != 0
    said = capsys.readouterr().err
    assert "was an age identity, which is secret" in said
    assert secret not in said


WITHOUT_PYRAGE = """
import sys

sys.modules["pyrage"] = None
from headrace_server.commands.headrace import main

sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["seal", "serve"])
def test_without_pyrage_the_extra_is_named(tmp_path: Path, command: str) -> None:
    own, version, keys = identity(), tmp_path / "m" / "1", tmp_path / "keys"
    version.mkdir(parents=True)
    keys.write_text(str(own))
    arguments: dict[str, list[object]] = {
        "seal": ["seal", version, tmp_path / "out", f"--recipient={own.to_public()}"],
        "serve": ["serve", "--check", f"--model_base_path={version.parent}", f"--model_keys_file={keys}"],
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYRAGE, *map(str, arguments[command])],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    said = "the package pyrage is not installed: pip install 'headrace[age]' installs it"
    assert re.search(re.escape(said), done.stderr), done.stderr
    assert "Traceback" not in done.stderr
