"""Signatures of versions: what they cover, which signers are accepted, and that a changed version is not loaded."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from headrace_server.errors import LoadError, ServingError
from headrace_server.security.models.model_keys import KeySource
from headrace_server.security.models.opening import Opener
from headrace_server.security.models.roots import Root, Trust, read_roots
from headrace_server.security.models.signing import sign
from headrace_server.security.models.trust import Signers
from tests.support.signing import Chain, KeyFiles, key_pair

MODEL_SIGNING = Path(os.environ.get("HEADRACE_MODEL_SIGNING", "model_signing"))


@pytest.fixture
def signer(tmp_path: Path) -> KeyFiles:
    return key_pair(tmp_path)


def opener(*keys: Path, required: bool = True) -> Opener:
    return Opener(Trust(Root(Path("/"), required, Signers(keys) if keys else None), []), KeySource(), ("model.toml",))


def refusal(own: Opener, version: Path) -> str:
    with pytest.raises(LoadError) as error:
        own.open(version)
    return error.value.message


def test_signed_versions_are_loaded_from_memory(version: Path, signer: KeyFiles) -> None:
    (version.parent / "model.toml").write_text("x")
    assert sign(version, signer.private) == version / "model.sig"

    opened = opener(signer.public).open(version)
    assert opened.path != version
    assert (opened.path.parent.name, opened.path.name, opened.signed) == ("m", "1", True)
    assert (opened.path / "inner" / "weights.bin").read_bytes() == b"weights"
    assert (opened.path.parent / "model.toml").read_text() == "x"
    assert opened.path.parents[1].stat().st_mode & 0o777 == 0o700
    assert opened.as_original(f"a {opened.path}/f b") == f"a {version}/f b"
    opened.close()
    assert not opened.path.parents[1].exists()


def test_every_bit_of_every_file_counts(version: Path, signer: KeyFiles) -> None:
    sign(version, signer.private)
    own = opener(signer.public)

    for file in (version / "model.onnx", version / "inner" / "weights.bin"):
        good = file.read_bytes()
        for bit in range(8 * len(good)):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            file.write_bytes(bad)
            assert f"{file.relative_to(version)} is not the file that was signed" in refusal(own, version)
        file.write_bytes(good)
    own.open(version).close()


def test_every_bit_of_the_signature_that_has_a_meaning_counts(version: Path, signer: KeyFiles) -> None:
    """Some bytes of a bundle have no meaning, such as white space, and a changed key hint only names another key."""
    file = sign(version, signer.private)
    own, good = opener(signer.public), file.read_bytes()
    document = json.loads(good)
    signed = (document["dsseEnvelope"]["payload"], document["dsseEnvelope"]["signatures"][0]["sig"])
    for text in signed:
        start = good.index(text.encode())
        for at in range(start, start + len(text), 7):
            bad = bytearray(good)
            bad[at] ^= 1
            file.write_bytes(bad)
            try:
                own.open(version).close()
            except LoadError:
                continue
            raise AssertionError(f"byte {at} does not count")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda version: (version / "model.sig").unlink(), "there is no model.sig"),
        (lambda version: (version / "model.py").write_text("evil"), "model.py has not been signed"),
        (lambda version: (version / "inner" / "x").symlink_to("/etc/passwd"), "inner/x has not been signed"),
        (
            lambda version: (version / "inner" / "weights.bin").unlink(),
            "weights.bin was signed but is missing",
        ),
        (lambda version: (version / "model.sig").write_text("{}"), "it is not a signature of a model"),
        (lambda version: (version / "model.sig").write_text("["), "it is not a signature of a model"),
        (lambda version: (version / "model.onnx").chmod(0), ""),
    ],
)
def test_errors_name_the_file(version: Path, signer: KeyFiles, change: object, said: str) -> None:
    sign(version, signer.private)
    assert callable(change)
    change(version)
    if not said and os.geteuid() == 0:
        pytest.skip("root reads everything")

    message = refusal(opener(signer.public), version)
    assert str(version) in message
    assert said in message


def test_accepted_signers(version: Path, signer: KeyFiles, tmp_path: Path) -> None:
    other = key_pair(tmp_path, "other")
    sign(version, other.private)

    assert "it was not made with a key that --signature_keys trusts" in refusal(opener(signer.public), version)
    opener(signer.public, other.public).open(version).close()


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_each_curve(version: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    own = key_pair(tmp_path, "own", curve)
    sign(version, own.private)
    opener(own.public).open(version).close()


def test_certificates(version: Path, tmp_path: Path) -> None:
    chain, elsewhere = Chain(tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    stranger = Chain(elsewhere, "root")
    sign(version, *chain.signer())
    own = opener(chain.file)
    own.open(version).close()
    assert "no authority that --signature_keys trusts" in refusal(opener(stranger.file), version)
    sign(version, *chain.signer("expired", days=0))
    own.open(version).close()  # this signer was allowed before
    sign(version, *chain.signer("no-usage", usage=False))
    assert "its certificate is not for signing" in refusal(own, version)


def test_a_signer_cannot_certify_signers(version: Path, tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    key, certificates = chain.signer("release")
    chain._middle_key = load_pem_private_key(key.read_bytes(), None)
    chain._middle = x509.load_pem_x509_certificates(certificates.read_bytes())[0]
    sign(version, *chain.signer("made-by-release"))
    assert "no authority that --signature_keys trusts" in refusal(opener(chain.file), version)


def test_signatures_that_are_not_required(version: Path, signer: KeyFiles) -> None:
    own = opener(signer.public, required=False)
    assert own.open(version).path == version
    sign(version, signer.private)
    (version / "model.onnx").write_bytes(b"changed")
    assert "model.onnx is not the file that was signed" in refusal(own, version)


def test_a_version_that_is_a_file(tmp_path: Path, signer: KeyFiles) -> None:
    file = tmp_path / "iris.onnx"
    file.write_bytes(b"iris")
    assert sign(file, signer.private) == tmp_path / "iris.onnx.sig"
    opened = opener(signer.public).open(file)
    assert (opened.path.name, opened.path.read_bytes()) == ("iris.onnx", b"iris")
    opened.close()
    file.write_bytes(b"rose")
    assert "iris.onnx is not the file that was signed" in refusal(opener(signer.public), file)


def test_each_root_has_its_own_rules(version: Path, signer: KeyFiles, tmp_path: Path) -> None:
    other = key_pair(tmp_path, "other")
    file = tmp_path / "roots.toml"
    file.write_text(
        f'[[roots]]\npath = "{version.parent}"\nkeys = ["{other.public}"]\n'
        f'[[roots]]\npath = "{tmp_path}"\nrequired = false\n'
    )
    own = Opener(Trust(Root(Path("/"), True, Signers([signer.public])), read_roots(file)), KeySource())
    sign(version, signer.private)
    assert "not made with a key" in refusal(own, version)
    sign(version, other.private)
    own.open(version).close()
    free = tmp_path / "free" / "1"
    free.mkdir(parents=True)
    assert own.open(free).path == free
    (tmp_path / "free" / "2").symlink_to(version)
    (version / "model.sig").unlink()
    assert "there is no model.sig" in refusal(own, tmp_path / "free" / "2"), "a link leads to where a root requires one"


@pytest.mark.parametrize("linked", ["version", "model", "folder of models"])
def test_no_link_leads_out_of_a_root(tmp_path: Path, signer: KeyFiles, linked: str) -> None:
    names = ("prod", "fraud", "1")
    depth = ("folder of models", "model", "version").index(linked) + 1
    link, target = tmp_path.joinpath(*names[:depth]), tmp_path.joinpath("elsewhere", *names[1:depth])
    inside, version = target.joinpath(*names[depth:]), tmp_path.joinpath(*names)
    inside.mkdir(parents=True)
    (inside / "model.onnx").write_bytes(b"evil")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    file = tmp_path / "roots.toml"
    root = f'[[roots]]\npath = "{tmp_path}/{{}}"\n'
    file.write_text(root.format("elsewhere") + "required = false\n")
    strict = Root(tmp_path.joinpath(*names[:depth]).parent, True, Signers([signer.public]))
    own = Opener(Trust(Root(Path("/"), False, None), [strict, *read_roots(file)]), KeySource())
    assert "there is no model.sig" in refusal(own, version)
    sign(inside, signer.private)
    own.open(version).close()
    assert own.open(inside).path == inside


def test_a_link_from_one_root_to_another_needs_a_signature_that_both_trust(tmp_path: Path, signer: KeyFiles) -> None:
    other, version, link = key_pair(tmp_path, "other"), tmp_path / "b" / "1", tmp_path / "a" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(b"x")
    link.parent.mkdir()
    link.symlink_to(version)
    file = tmp_path / "roots.toml"
    for key, allowed in ((other, False), (signer, True)):
        file.write_text(
            f'[[roots]]\npath = "{tmp_path}/a"\nkeys = ["{signer.public}"]\n'
            f'[[roots]]\npath = "{tmp_path}/b"\nkeys = ["{signer.public}", "{other.public}"]\n'
        )
        own = Opener(Trust(Root(Path("/"), False, None), read_roots(file)), KeySource())
        sign(version, key.private)
        own.open(version).close()
        if allowed:
            own.open(link).close()
        else:
            assert "not made with a key" in refusal(own, link)


def test_a_certificate_of_the_same_authority_for_other_purposes(version: Path, tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    own = opener(chain.file)
    kinds = ExtendedKeyUsageOID
    for others in ([kinds.SERVER_AUTH], [kinds.CLIENT_AUTH, kinds.EMAIL_PROTECTION], [kinds.TIME_STAMPING]):
        sign(version, *chain.signer("other", purposes=others))
        assert "its certificate is for other purposes" in refusal(own, version)
    for fit in ([kinds.SERVER_AUTH, kinds.CODE_SIGNING], [kinds.ANY_EXTENDED_KEY_USAGE]):
        sign(version, *chain.signer("fit", purposes=fit))
        own.open(version).close()


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("", "must contain only [[roots]] tables"),
        ("[[roots]]", "root 1: path must be the name of a folder"),
        ('[[roots]]\npath = "/m"', "root 1: keys or identities must say whose signatures are trusted"),
        ('[[roots]]\npath = "/m"\nkey = "k"', "root 1: unknown key 'key'; the allowed keys are path, "),
        ('[[roots]]\npath = "/m"\nrequired = 1', "root 1: required must be true or false; was 1"),
        ('[[roots]]\npath = "/m"\nkeys = ["/no/such/key"]', "/no/such/key: No such file"),
    ],
)
def test_errors_in_the_roots_file(tmp_path: Path, text: str, culprit: str) -> None:
    file = tmp_path / "roots.toml"
    file.write_text(text)
    with pytest.raises(ServingError) as error:
        read_roots(file)
    assert culprit in error.value.message


def test_invalid_keys(tmp_path: Path) -> None:
    file = tmp_path / "key"
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    for content in (b"", b"nothing", key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)):
        file.write_bytes(content)
        with pytest.raises(ServingError, match="must contain a public key"):
            Signers([file])


def test_signatures_are_compatible_with_model_signing(version: Path, signer: KeyFiles, tmp_path: Path) -> None:
    command = shutil.which(MODEL_SIGNING)
    if command is None:
        pytest.skip("model_signing is not installed, nor named by HEADRACE_MODEL_SIGNING")

    def run(*arguments: str | Path) -> None:
        subprocess.run([command, *arguments], check=True, capture_output=True)

    file = version / "model.sig"
    run("sign", "key", version, "--signature", file, "--private_key", signer.private)
    opener(signer.public).open(version).close()
    sign(version, signer.private)
    run("verify", "key", version, "--signature", file, "--public_key", signer.public)
    chain = Chain(tmp_path)
    key, certificates = chain.signer()
    sign(version, key, certificates)
    run("verify", "certificate", version, "--signature", file, "--certificate_chain", chain.file)
    first, _, rest = certificates.read_text().partition("-----END CERTIFICATE-----\n")
    certificates.write_text(first + "-----END CERTIFICATE-----\n")
    (tmp_path / "middle.pem").write_text(rest)
    run(
        *("sign", "certificate", version, "--signature", file, "--private_key", key, "--signing_certificate"),
        *(certificates, "--certificate_chain", tmp_path / "middle.pem"),
    )
    opener(chain.file).open(version).close()
