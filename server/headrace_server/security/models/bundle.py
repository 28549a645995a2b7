"""Signatures of models in the format of OpenSSF Model Signing 1.0: a Sigstore bundle around an in-toto statement.

This file reads and writes the format without the network, and with no other package than `cryptography`. The package
`model-signing` would do the same, but installs the clients of Sigstore's services too: 36 packages, 51 MB. headrace and
`model-signing` verify each other's signatures if these were made with a key or a certificate.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from headrace_server.errors import misread

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"

WHOLE_FILE = "."
"""The name of a model that consists of a single file."""

MAX_BUNDLE_BYTES = 64 << 20


class BadSignature(ValueError):
    """The reason why a signature of a model is not accepted."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A parsed signature, not yet verified.

    Attributes:
        payload: The signed bytes: a statement.
        signature: The signature of the encoded payload.
        certificates: The signer's certificate and those that lead from it to an authority, in DER; empty for a bare
            key.
        key_hint: SHA-256 of the signer's public key in PEM, in hexadecimal digits; empty if there is none.
        is_logged: Whether the signature is by a certificate, and recorded in a transparency log. Then the
            signature may be keyless; a log may also record a signature by a bare key, or by another authority's
            certificate.
        content: The whole file.
    """

    payload: bytes
    signature: bytes
    certificates: tuple[bytes, ...]
    key_hint: str
    is_logged: bool
    content: bytes

    @property
    def signed_bytes(self) -> bytes:
        """The bytes that the signature covers. Source: DSSE 1.0, protocol.md."""
        return signed_bytes(self.payload)


def signed_bytes(payload: bytes) -> bytes:
    """The bytes to sign for a payload."""
    return f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload


def read_bundle(content: bytes) -> Bundle:
    """Parses the signature in a file.

    Raises:
        BadSignature: The file does not contain a signature.
    """
    try:
        document = json.loads(content)
        envelope, material = document["dsseEnvelope"], document["verificationMaterial"]
        (signature,) = envelope["signatures"]
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise BadSignature(f"it signs {envelope['payloadType']!r}, not {PAYLOAD_TYPE!r}")
        certificates = tuple(_bytes(each["rawBytes"]) for each in _chain(material))
        return Bundle(
            _bytes(envelope["payload"]),
            _bytes(signature["sig"]),
            certificates,
            str(material.get("publicKey", {}).get("hint") or ""),
            bool(certificates and material.get("tlogEntries")),
            content,
        )
    except BadSignature:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadSignature(f"it is not a signature of a model: {misread(error)}") from error


def _chain(material: Mapping[str, Any]) -> Sequence[Mapping[str, str]]:
    if "certificate" in material:
        return (material["certificate"],)
    chain: Sequence[Mapping[str, str]] = material.get("x509CertificateChain", {}).get("certificates", ())
    return chain


def write_bundle(payload: bytes, signature: bytes, material: Mapping[str, Any]) -> bytes:
    """The content of a signature file.

    Args:
        payload: The signed bytes.
        signature: The signature of the payload's `signed_bytes`.
        material: The signer's key or certificates, as in the bundle.
    """
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    document = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {**material, "tlogEntries": []},
        "dsseEnvelope": envelope,
    }
    return json.dumps(document).encode()


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of a statement about a model.

    Attributes:
        digests: SHA-256 of each file, by its name within the model, with slashes.
        ignored: Names of further files that the model may hold; they are not covered by the signature.
    """

    digests: Mapping[str, bytes]
    ignored: frozenset[str] = frozenset()


def read_manifest(payload: bytes) -> Manifest:
    """Parses a statement that has been verified.

    Raises:
        BadSignature: The statement has another kind or form.
    """
    try:
        statement = json.loads(payload)
        if (statement["_type"], statement["predicateType"]) != (STATEMENT_TYPE, PREDICATE_TYPE):
            raise BadSignature(f"its statement is of the kind {statement['predicateType']!r}, not {PREDICATE_TYPE!r}")
        predicate, (subject,) = statement["predicate"], statement["subject"]
        how = predicate["serialization"]
        if (how["method"], how["hash_type"]) != ("files", "sha256"):
            raise BadSignature(f"its hashes are by {how['method']} and {how['hash_type']}, not by files and sha256")
        digests = {_name(each["name"]): bytes.fromhex(each["digest"]) for each in predicate["resources"]}
        together = hashlib.sha256(b"".join(digests.values())).hexdigest()
        if len(digests) != len(predicate["resources"]) or together != subject["digest"]["sha256"]:
            raise BadSignature("its statement contradicts itself")
        return Manifest(digests, frozenset(map(str, how.get("ignore_paths", ()))))
    except BadSignature:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadSignature(f"its statement cannot be read: {misread(error)}") from error


def write_manifest(name: str, manifest: Manifest) -> bytes:
    """Writes a statement about a model.

    Args:
        name: The model's name.
        manifest: The content of the statement.
    """
    names = sorted(manifest.digests)
    together = hashlib.sha256(b"".join(manifest.digests[each] for each in names)).hexdigest()
    resources = [{"name": each, "algorithm": "sha256", "digest": manifest.digests[each].hex()} for each in names]
    how = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": sorted(manifest.ignored),
    }
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": together}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"serialization": how, "resources": resources},
    }
    return json.dumps(statement, indent=2).encode()


def _name(name: str) -> str:
    path = PurePosixPath(name)
    if name != WHOLE_FILE and (path.is_absolute() or ".." in path.parts or str(path) != name or "\0" in name):
        raise BadSignature(f"it names a file outside the model: {name!r}")
    return name


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
