"""Signs a version with a private key, or with a key that has a certificate."""

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace_server.errors import invalid, unreadable
from headrace_server.security.models.bundle import WHOLE_FILE, Manifest, signed_bytes, write_bundle, write_manifest
from headrace_server.security.models.names import SIGNATURE_FILE
from headrace_server.security.models.opening import files_of, signature_path
from headrace_server.security.models.trust import HASHES, algorithm_of, key_hint, public_pem
from headrace_server.security.packages import needs

PASSWORD_VARIABLE = "HEADRACE_SIGNING_KEY_PASSWORD"
"""The environment variable that holds the password of an encrypted private key."""


def check_key(key: Path, password: str = "") -> None:
    """Refuses a file that `sign` could not sign with.

    Raises:
        ServingError: The file cannot be read or used; the text names it.
    """
    _private_key(key, password)


def sign(version: Path, key: Path, certificates: Path | None = None, password: str = "") -> Path:
    """Writes the signature of a version as it is now, and returns the signature's path.

    Args:
        version: The version's folder or file.
        key: A PEM file with an ECDSA private key on P-256, P-384 or P-521.
        certificates: A PEM file: the key's certificate, then those that lead from it to an authority; None for a bare
            key.
        password: The key's password; empty if there is none.

    Raises:
        ServingError: A file cannot be read or used; the text names it.
    """
    signer = _private_key(key, password)
    material = _key_material(signer) if certificates is None else _certificate_material(signer, certificates)
    payload = write_manifest(version.resolve().name, manifest_of(version))
    signature = signer.sign(signed_bytes(payload), algorithm_of(signer))
    path = signature_path(version)
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_bytes(write_bundle(payload, signature, material))
        os.replace(new, path)
    except OSError as error:
        raise unreadable(path, error) from error
    return path


def manifest_of(version: Path) -> Manifest:
    """The statement that a signature of the version's current files makes."""
    if version.is_file():
        return Manifest({WHOLE_FILE: _digest(version)})
    names = [name for name in files_of(version) if name != SIGNATURE_FILE]
    return Manifest({name: _digest(version / name) for name in names}, frozenset({SIGNATURE_FILE}))


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise unreadable(path, error) from error


def _private_key(path: Path, password: str) -> Any:
    with needs("signing"):
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    try:
        key = load_pem_private_key(path.read_bytes(), password.encode() or None)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, TypeError) as error:
        raise invalid(f"{path} cannot be used as a private key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in HASHES:
        raise invalid(f"{path} must contain an ECDSA private key on P-256, P-384 or P-521")
    return key


def _key_material(key: Any) -> Mapping[str, Any]:
    return {"publicKey": {"hint": key_hint(key.public_key())}}


def _certificate_material(key: Any, path: Path) -> Mapping[str, Any]:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        chain = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise invalid(f"{path} cannot be used as certificates: {error}") from error
    if public_pem(chain[0].public_key()) != public_pem(key.public_key()):
        raise invalid(f"{path}: the first certificate is not that of the key")
    raw = [{"rawBytes": base64.b64encode(each.public_bytes(Encoding.DER)).decode()} for each in chain]
    return {"x509CertificateChain": {"certificates": raw}}
