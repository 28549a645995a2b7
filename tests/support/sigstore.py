"""A Sigstore service of a few keys: its authority, its two logs, its trusted root, and the signatures that it makes.

It does without a network what Fulcio, the certificate log and Rekor do, so that tests can make signatures for any
identity, and with any mistake.
"""

import base64
import hashlib
import json
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from headrace_server.security.models.bundle import PAYLOAD_TYPE, signed_bytes

ISSUER = "https://accounts.example.com"
IDENTITY = "release@example.com"

_ISSUER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_SHA256_WITH_ECDSA = b"\x04\x03"


@dataclass(frozen=True, kw_only=True)
class Signing:
    """How a signature is made.

    Attributes:
        identity: The signer's e-mail address, or a URI.
        issuer: The OpenID provider that vouches for it.
        seconds_late: How long after the certificate was issued the log recorded the signature.
    """

    identity: str = IDENTITY
    issuer: str = ISSUER
    seconds_late: int = 60


class Sigstore:
    """The service: certificates that last for ten minutes, and logs of one entry.

    Args:
        folder: The folder for `trusted_root.json`.
    """

    def __init__(self, folder: Path) -> None:
        self._authority, self._certificates, self._log = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        self._issued = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30)
        self._name = x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "example"), x509.NameAttribute(NameOID.COMMON_NAME, "ca")]
        )
        self._root = self._self_signed()
        self.trust_root = folder / "trusted_root.json"
        self.trust_root.write_text(json.dumps(self._trusted_root()))

    def bundle(self, payload: bytes, how: Signing | None = None) -> dict[str, Any]:
        """The signature of a statement, as JSON."""
        how = how or Signing()
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certificate(key, how)
        signature = key.sign(signed_bytes(payload), ec.ECDSA(hashes.SHA256()))
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": _text(certificate.public_bytes(Encoding.DER))},
                "tlogEntries": [self._entry(_body(payload, signature, certificate), how)],
            },
            "dsseEnvelope": {
                "payload": _text(payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": _text(signature)}],
            },
        }

    def _self_signed(self) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._authority.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._issued - timedelta(days=1))
            .not_valid_after(self._issued + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._authority.public_key()), critical=False)
            .sign(self._authority, hashes.SHA256())
        )

    def _certificate(self, key: ec.EllipticCurvePrivateKey, how: Signing) -> x509.Certificate:
        """The signer's certificate, with the signed timestamp of the certificate log, which covers the rest of it."""
        is_mail = "@" in how.identity and "://" not in how.identity
        name = x509.RFC822Name(how.identity) if is_mail else x509.UniformResourceIdentifier(how.identity)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._issued)
            .not_valid_after(self._issued + timedelta(minutes=10))
            .add_extension(_usage("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._authority.public_key()), critical=False
            )
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_OID, how.issuer.encode()), critical=False)
        )
        without = builder.sign(self._authority, hashes.SHA256())
        promise = x509.UnrecognizedExtension(_SCT_LIST, self._promise(without.tbs_certificate_bytes))
        return builder.add_extension(promise, critical=False).sign(self._authority, hashes.SHA256())

    def _promise(self, certificate: bytes) -> bytes:
        """The log's signed timestamp. Source: RFC 6962, sections 3.2 and 3.3."""
        at = int(self._issued.timestamp() * 1000)
        issuer = hashlib.sha256(_public(self._authority)).digest()
        entry = issuer + len(certificate).to_bytes(3, "big") + certificate
        signed = struct.pack("!BBQH", 0, 0, at, 1) + entry + bytes(2)
        signature = self._certificates.sign(signed, ec.ECDSA(hashes.SHA256()))
        log = hashlib.sha256(_public(self._certificates)).digest()
        timestamp = struct.pack("!B32sQH", 0, log, at, 0) + _SHA256_WITH_ECDSA + _sized(signature)
        octets = _sized(_sized(timestamp))
        return b"\x04" + (bytes([len(octets)]) if len(octets) < 128 else b"\x81" + bytes([len(octets)])) + octets

    def _entry(self, body: bytes, how: Signing) -> dict[str, Any]:
        """The only entry of a log, with its inclusion proof and the log's signed timestamp."""
        at = int(self._issued.timestamp()) + how.seconds_late
        log, root = hashlib.sha256(_public(self._log)).digest(), hashlib.sha256(b"\0" + body).digest()
        note = f"log.example.com - 1\n1\n{_text(root)}\n"
        signature = _text(log[:4] + self._log.sign(note.encode(), ec.ECDSA(hashes.SHA256())))
        promised = {"body": _text(body), "integratedTime": at, "logID": log.hex(), "logIndex": 0}
        promise = self._log.sign(_canonical(promised), ec.ECDSA(hashes.SHA256()))
        return {
            "logIndex": "0",
            "logId": {"keyId": _text(log)},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(at),
            "inclusionPromise": {"signedEntryTimestamp": _text(promise)},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": _text(root),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": f"{note}\n\u2014 log.example.com {signature}\n"},
            },
            "canonicalizedBody": _text(body),
        }

    def _trusted_root(self) -> dict[str, Any]:
        since = {"start": (self._issued - timedelta(days=1)).isoformat().replace("+00:00", "Z")}

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            public = {"rawBytes": _text(_public(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": since}
            identity = {"keyId": _text(hashlib.sha256(_public(key)).digest())}
            return {
                "baseUrl": "https://log.example.com",
                "hashAlgorithm": "SHA2_256",
                "publicKey": public,
                "logId": identity,
            }

        authority = {
            "subject": {"organization": "example", "commonName": "ca"},
            "uri": "https://ca.example.com",
            "certChain": {"certificates": [{"rawBytes": _text(self._root.public_bytes(Encoding.DER))}]},
            "validFor": since,
        }
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self._log)],
            "certificateAuthorities": [authority],
            "ctlogs": [log(self._certificates)],
            "timestampAuthorities": [],
        }


def _body(payload: bytes, signature: bytes, certificate: x509.Certificate) -> bytes:
    """The record that Rekor keeps of an envelope. Source: Rekor, pkg/types/dsse/v0.0.1."""
    signed = {"signature": _text(signature), "verifier": _text(certificate.public_bytes(Encoding.PEM))}
    digest = {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()}
    spec = {"envelopeHash": digest, "payloadHash": digest, "signatures": [signed]}
    return _canonical({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})


def _usage(*allowed: str) -> x509.KeyUsage:
    kinds = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{kind: kind in allowed for kind in kinds})


def _public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _sized(content: bytes) -> bytes:
    return len(content).to_bytes(2, "big") + content


def _canonical(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
