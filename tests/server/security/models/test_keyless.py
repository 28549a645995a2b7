"""Keyless signatures: which signers are accepted, that every bit counts, and that the network is not used."""

import base64
import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from headrace_server.config.signing import SigningOptions
from headrace_server.errors import LoadError, ServingError
from headrace_server.security.models import trust
from headrace_server.security.models.bundle import write_manifest
from headrace_server.security.models.keyless import Keyless, KeylessOptions
from headrace_server.security.models.model_keys import KeySource
from headrace_server.security.models.opening import Opener
from headrace_server.security.models.roots import Root, Trust, make_signers, read_roots
from headrace_server.security.models.signing import manifest_of, sign
from headrace_server.security.options import make_opener
from tests.support import models
from tests.support.running import COMMAND, START_WITHIN
from tests.support.signing import Chain, key_pair
from tests.support.sigstore import IDENTITY, ISSUER, Signing, Sigstore
from tests.support.tools import tool

sigstore = pytest.importorskip("sigstore", reason="the extra keyless is not installed")

WORKFLOW = "https://github.com/example/models/.github/workflows/release.yml@refs/tags/v1"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Sigstore:
    return Sigstore(tmp_path_factory.mktemp("sigstore"))


def signed(service: Sigstore, version: Path, how: Signing | None = None) -> dict[str, Any]:
    bundle = service.bundle(write_manifest(version.name, manifest_of(version)), how)
    (version / "model.sig").write_text(json.dumps(bundle))
    return bundle


def opener(service: Sigstore, *identities: str, issuer: str = ISSUER, keys: tuple[str, ...] = ()) -> Opener:
    options = KeylessOptions(identities or (IDENTITY,), issuer, str(service.trust_root))
    return Opener(Trust(Root(Path("/"), True, make_signers(keys, options)), []), KeySource())


def refusal(own: Opener, version: Path) -> str:
    with pytest.raises(LoadError) as error:
        own.open(version)
    return error.value.message


@pytest.mark.parametrize("identity", [IDENTITY, WORKFLOW])
def test_a_signature_by_a_trusted_identity(service: Sigstore, version: Path, identity: str) -> None:
    signed(service, version, Signing(identity=identity))
    opened = opener(service, "other@example.com", identity).open(version)
    assert (opened.path / "inner" / "weights.bin").read_bytes() == b"weights"
    assert opened.signed
    opened.close()


def test_a_log_may_record_a_signature_by_a_certificate_of_ones_own(
    service: Sigstore, version: Path, tmp_path: Path
) -> None:
    chain = Chain(tmp_path)
    sign(version, *chain.signer())
    signature = version / "model.sig"
    bundle = json.loads(signature.read_bytes())
    entries = service.bundle(b"{}")["verificationMaterial"]["tlogEntries"]
    bundle["verificationMaterial"]["tlogEntries"] = entries
    signature.write_text(json.dumps(bundle))

    opener(service, keys=(str(chain.file),)).open(version).close()
    (tmp_path / "others").mkdir()
    others = Chain(tmp_path / "others")
    assert "its keyless signature is not valid" in refusal(opener(service, keys=(str(others.file),)), version)
    (version / "model.onnx").write_bytes(b"changed")
    assert "model.onnx" in refusal(opener(service, keys=(str(chain.file),)), version)


def test_a_chain_of_certificates_is_followed_once(
    service: Sigstore, version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = Chain(tmp_path)
    sign(version, *chain.signer())
    signature = version / "model.sig"
    bundle = json.loads(signature.read_bytes())
    bundle["verificationMaterial"]["tlogEntries"] = service.bundle(b"{}")["verificationMaterial"]["tlogEntries"]
    signature.write_text(json.dumps(bundle))
    own = opener(service, keys=(str(chain.file),))
    follow = Mock(wraps=trust._lead)
    monkeypatch.setattr(trust, "_lead", follow)
    own.open(version).close()
    follow.assert_called_once()


def test_keyless_signatures_are_taken_beside_an_authority(service: Sigstore, version: Path, tmp_path: Path) -> None:
    signed(service, version)
    opener(service, keys=(str(Chain(tmp_path).file),)).open(version).close()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            Signing(identity="eve@example.com"),
            f"its signer, eve@example.com, identified by {ISSUER}, is not trusted",
        ),
        (Signing(identity=WORKFLOW), f"its signer, {WORKFLOW}, identified by"),
        (
            Signing(issuer="https://evil.example.com"),
            f"{IDENTITY}, identified by https://evil.example.com, is not trusted",
        ),
        (Signing(seconds_late=601), "its keyless signature is not valid: failed to build timestamp certificate chain"),
        (Signing(seconds_late=-1), "its keyless signature is not valid: failed to build timestamp certificate chain"),
    ],
)
def test_a_signature_that_is_refused(service: Sigstore, version: Path, how: Signing, said: str) -> None:
    signed(service, version, how)
    message = refusal(opener(service), version)
    assert message.startswith(f"{version / 'model.sig'} is not loaded: ")
    assert said in message


def test_a_signature_of_another_service(service: Sigstore, version: Path, tmp_path: Path) -> None:
    signed(Sigstore(tmp_path), version)
    assert "its keyless signature is not valid" in refusal(opener(service), version)


def test_parts_of_another_signature(service: Sigstore, version: Path) -> None:
    """Both signatures are by the same identity, so only the mix of their parts can be at fault."""
    one, other = signed(service, version), service.bundle(b"{}")
    for name in ("certificate", "tlogEntries"):
        mixed = copy.deepcopy(one)
        mixed["verificationMaterial"][name] = other["verificationMaterial"][name]
        (version / "model.sig").write_text(json.dumps(mixed))
        assert "its keyless signature is not valid" in refusal(opener(service), version)


def test_a_log_entry_is_needed(service: Sigstore, version: Path) -> None:
    """Without a log entry, nothing shows that the signature was made while the certificate was valid."""
    bundle = signed(service, version)
    entries = bundle["verificationMaterial"]["tlogEntries"]
    for number in (0, 2):
        bundle["verificationMaterial"]["tlogEntries"] = entries * number
        (version / "model.sig").write_text(json.dumps(bundle))
        refusal(opener(service), version)


def test_each_bit_of_the_signature_counts(service: Sigstore, version: Path) -> None:
    bundle, own = signed(service, version), opener(service)
    for bad in changed(bundle):
        (version / "model.sig").write_text(json.dumps(bad))
        refusal(own, version)
    (version / "model.sig").write_text(json.dumps(bundle))
    own.open(version).close()


def changed(bundle: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Copies of a bundle, each with one changed bit in a signed part: in its first byte, its last byte, or another."""
    material, envelope = ("verificationMaterial",), ("dsseEnvelope",)
    entry = (*material, "tlogEntries", 0)
    parts: list[tuple[str | int, ...]] = [
        (*envelope, "payload"),
        (*envelope, "signatures", 0, "sig"),
        (*material, "certificate", "rawBytes"),
        (*entry, "logId", "keyId"),
        (*entry, "inclusionPromise", "signedEntryTimestamp"),
        (*entry, "inclusionProof", "rootHash"),
        (*entry, "canonicalizedBody"),
    ]
    for part in parts:
        yield from _changed(bundle, part, base64.b64decode, lambda content: base64.b64encode(content).decode())
    checkpoint = (*entry, "inclusionProof", "checkpoint", "envelope")
    yield from _changed(bundle, checkpoint, _note, _with_signature(bundle, checkpoint))
    for name in ("integratedTime", "logIndex"):
        yield from _changed(bundle, (*entry, name), str.encode, lambda content: content.decode(errors="replace"))


def _changed(
    bundle: dict[str, Any], part: tuple[str | int, ...], read: Callable[[str], bytes], write: Callable[[bytes], str]
) -> Iterator[dict[str, Any]]:
    *way, last = part
    content = read(_at(bundle, part))
    for at in {0, len(content) - 1, *range(0, len(content), max(1, len(content) // 12))}:
        bad, wrong = copy.deepcopy(bundle), bytearray(content)
        wrong[at] ^= 1 << at % 8
        _at(bad, tuple(way))[last] = write(bytes(wrong))
        yield bad


def _note(checkpoint: str) -> bytes:
    return checkpoint.partition("\n\n")[0].encode()


def _with_signature(bundle: dict[str, Any], checkpoint: tuple[str | int, ...]) -> Callable[[bytes], str]:
    rest = _at(bundle, checkpoint).partition("\n\n")[2]
    return lambda note: f"{note.decode(errors='replace')}\n\n{rest}"


def _at(document: Any, way: tuple[str | int, ...]) -> Any:
    for key in way:
        document = document[key]
    return document


def test_each_bit_of_a_file_counts(service: Sigstore, version: Path) -> None:
    signed(service, version)
    own, file = opener(service), version / "model.onnx"
    good = file.read_bytes()
    for bit in range(0, 8 * len(good), 17):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        file.write_bytes(bad)
        assert "model.onnx is not the file that was signed" in refusal(own, version)
    file.write_bytes(good)
    (version / "model.py").write_text("evil")
    assert "model.py has not been signed" in refusal(own, version)


def test_keys_and_identities_side_by_side(service: Sigstore, version: Path, tmp_path: Path) -> None:
    signer = key_pair(tmp_path)
    own = opener(service, keys=(str(signer.public),))
    sign(version, signer.private)
    own.open(version).close()
    signed(service, version)
    own.open(version).close()
    by_key = make_signers((str(signer.public),), KeylessOptions())
    assert "no authority that" in refusal(Opener(Trust(Root(Path("/"), True, by_key), []), KeySource()), version)


def test_a_log_entry_does_not_make_a_signature_by_a_key_keyless(
    service: Sigstore, version: Path, tmp_path: Path
) -> None:
    entries = signed(service, version)["verificationMaterial"]["tlogEntries"]
    (version / "model.sig").unlink()
    signer = key_pair(tmp_path)
    file = sign(version, signer.private)
    bundle = json.loads(file.read_text())
    bundle["verificationMaterial"]["tlogEntries"] = entries
    file.write_text(json.dumps(bundle))
    opener(service, keys=(str(signer.public),)).open(version).close()
    assert "it was not made with a key that --signature_keys trusts" in refusal(opener(service), version)


def test_a_root_has_its_own_identities(service: Sigstore, version: Path, tmp_path: Path) -> None:
    file = tmp_path / "roots.toml"
    file.write_text(
        f'[[roots]]\npath = "{version.parent}"\nidentities = ["{WORKFLOW}"]\nissuer = "{ISSUER}"\n'
        f'trust_root = "{service.trust_root}"\n'
    )
    own = Opener(Trust(Root(Path("/"), False, None), read_roots(file)), KeySource())
    signed(service, version)
    assert f"its signer, {IDENTITY}" in refusal(own, version)
    signed(service, version, Signing(identity=WORKFLOW))
    own.open(version).close()
    (version / "model.sig").unlink()
    assert "there is no model.sig, and signatures are required" in refusal(own, version)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("identities", "--signature_identities is missing"),
        ("issuer", "--signature_issuer is missing"),
        ("trust_root", "--signature_trust_root is missing"),
    ],
)
def test_the_options_belong_together(service: Sigstore, tmp_path: Path, missing: str, said: str) -> None:
    values: dict[str, Any] = {"identities": (IDENTITY,), "issuer": ISSUER, "trust_root": str(service.trust_root)}
    del values[missing]
    with pytest.raises(ServingError) as error:
        make_opener(SigningOptions(**{f"signature_{name}": value for name, value in values.items()}), "", ())
    assert error.value.message.endswith(f"must be given together; {said}")
    file = tmp_path / "roots.toml"
    file.write_text(
        "[[roots]]\npath = '/m'\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    )
    with pytest.raises(ServingError, match=f"root 1: .* must be given together; {missing} is missing"):
        read_roots(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("[", "must be a trusted root of Sigstore, in JSON: Invalid JSON: EOF"),
        ("{}", "must be a trusted root of Sigstore, in JSON: mediaType: Field required"),
        ("{'mediaType': 'x', 'tlogs': [], 'certificateAuthorities': []}".replace("'", '"'), "JSON: mediaType: "),
    ],
)
def test_a_trusted_root_that_cannot_be_used(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "root.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ServingError) as error:
        Keyless(KeylessOptions((IDENTITY,), ISSUER, str(file)))
    assert error.value.message.startswith(str(file))
    assert said in error.value.message


def serve(service: Sigstore, version: Path) -> list[str]:
    trusted = [f"--signature_identities={IDENTITY}", f"--signature_issuer={ISSUER}"]
    trusted += [f"--signature_trust_root={service.trust_root}", "--require_signatures"]
    return ["serve", "--check", f"--model_base_path={version.parent}", *trusted]


def test_a_server_sends_no_request(service: Sigstore, tmp_path: Path) -> None:
    strace, trace, version = tool("strace"), tmp_path / "trace", tmp_path / "m" / "1"
    models.linear(version)
    signed(service, version)
    command = [strace, "-f", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace), COMMAND, *serve(service, version)]
    environment = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run(command, check=True, capture_output=True, env=environment, timeout=START_WITHIN)
    assert "AF_INET" not in trace.read_text(errors="replace")


WITHOUT_SIGSTORE = """
import sys

sys.modules["sigstore"] = None
from headrace_server.commands.headrace import main

sys.exit(main(sys.argv[1:]))
"""


def test_without_sigstore_the_extra_is_named(service: Sigstore, version: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_SIGSTORE, *serve(service, version)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_WITHIN)
    assert done.returncode != 0
    assert "is not installed: pip install 'headrace[keyless]' installs it" in done.stderr
    assert "Traceback" not in done.stderr


def test_signatures_of_the_public_service_are_accepted(tmp_path: Path) -> None:
    """Examples of model-signing's repository, in scripts/tests, with the trusted root in the package sigstore."""
    examples = os.environ.get("HEADRACE_MODEL_SIGNING_EXAMPLES")
    if not examples:
        pytest.skip("HEADRACE_MODEL_SIGNING_EXAMPLES does not name scripts/tests of model-signing's repository")
    (trust_root,) = Path(sigstore.__file__).parent.glob("_store/*sigstore.dev/trusted_root.json")
    options = KeylessOptions(("stefanb@us.ibm.com",), "https://sigstore.verify.ibm.com/oauth2", str(trust_root))
    own = Opener(Trust(Root(Path("/"), True, make_signers((), options)), []), KeySource())
    for name in ("v0.3.1", "v1.0.0", "v1.1.0"):
        version = shutil.copytree(Path(examples) / f"{name}-sigstore", tmp_path / name)
        own.open(version).close()
        (version / "signme-1").write_text("changed")
        assert "signme-1 is not the file that was signed" in refusal(own, version)
