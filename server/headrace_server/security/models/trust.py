"""Whose signatures are trusted: those of keys, of authorities' certificates, and of Sigstore's identities."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from headrace_server.errors import invalid, unreadable
from headrace_server.security.models.bundle import BadSignature, Bundle, Manifest, read_manifest
from headrace_server.security.models.keyless import Keyless
from headrace_server.security.packages import needs

HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
MAX_CHAIN = 8


class Signers:
    """The public keys, the authorities and the identities whose signatures are trusted.

    Args:
        paths: PEM files, each of public keys or of authorities' certificates.
        keyless: Verifies keyless signatures; None if no identity is trusted.

    Raises:
        ServingError: A file cannot be read, or contains no public key and no certificate.
    """

    def __init__(self, paths: Sequence[Path], keyless: Keyless | None = None) -> None:
        self._keyless = keyless
        self._keys: list[Any] = []
        self._authorities: list[Any] = []
        for path in paths:
            self._read(path)

    def verify(self, bundle: Bundle) -> Manifest:
        """Verifies a signature, and returns the files that it covers.

        Raises:
            BadSignature: None of the trusted signers made the signature.
        """
        keyless, signers = self._keyless if bundle.is_logged else None, list[Any]()
        if keyless is None or self._authorities:
            try:
                signers = self._signers(bundle)
            except BadSignature:
                if keyless is None:
                    raise
        if keyless is not None and not signers:  # no trusted authority has issued the bundle's certificate
            return read_manifest(keyless.verify(bundle.content))
        with needs("signing"):
            from cryptography.exceptions import InvalidSignature
        for key in signers:
            try:
                key.verify(bundle.signature, bundle.signed_bytes, algorithm_of(key))
            except InvalidSignature:
                continue
            return read_manifest(bundle.payload)
        raise BadSignature("it was not made with a key that --signature_keys trusts")

    def _signers(self, bundle: Bundle) -> list[Any]:
        """The keys that may have made a signature.

        Raises:
            BadSignature: No trusted authority has issued its certificate.
        """
        if not bundle.certificates:
            return [key for key in self._keys if bundle.key_hint in ("", key_hint(key))]
        return [_signer(bundle.certificates, self._authorities)]

    def _read(self, path: Path) -> None:
        with needs("signing"):
            from cryptography import x509
            from cryptography.hazmat.primitives.serialization import load_pem_public_key
        try:
            content = path.read_bytes()
        except OSError as error:
            raise unreadable(path, error) from error
        try:
            if b"BEGIN CERTIFICATE" in content:
                self._authorities += x509.load_pem_x509_certificates(content)
            else:
                self._keys.append(_checked(load_pem_public_key(content)))
        except ValueError as error:
            text = f"{path} must contain a public key (ECDSA on P-256, P-384 or P-521) or certificates, in PEM: {error}"
            raise invalid(text) from error


def _checked(key: Any) -> Any:
    """Checks that the format supports a key, and returns the key."""
    curve = getattr(getattr(key, "curve", None), "name", type(key).__name__)
    if curve not in HASHES:
        raise ValueError(f"it is a key on the curve {curve}")
    return key


def public_pem(key: Any) -> bytes:
    """A public key in PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem: bytes = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def key_hint(key: Any) -> str:
    """The hint by which a signature identifies a public key: SHA-256 of the key in PEM, in hexadecimal digits."""
    return hashlib.sha256(public_pem(key)).hexdigest()


def algorithm_of(key: Any) -> Any:
    """How a key signs: ECDSA with the hash that belongs to its curve."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(getattr(hashes, HASHES[key.curve.name])())


def _signer(certificates: Sequence[bytes], authorities: Sequence[Any]) -> Any:
    """The key of the first certificate, once the other certificates have been shown to link it to an authority.

    A signature carries no trusted timestamp. So all certificates are checked as of the start of the validity of the
    signer's certificate, as model-signing does. A signer whose certificate has expired may have signed before.
    """
    from cryptography import x509

    try:
        chain = [x509.load_der_x509_certificate(each) for each in certificates[:MAX_CHAIN]]
        signer, at = chain[0], chain[0].not_valid_before_utc
        _check_usage(signer)
        _lead(chain, authorities, at)
        return _checked(signer.public_key())
    except ValueError as error:
        raise BadSignature(f"its certificate cannot be used: {error}") from error


def _lead(chain: list[Any], authorities: Sequence[Any], at: datetime) -> None:
    """Follows the certificates from the first one to an authority.

    Raises:
        BadSignature: The certificates lead to no trusted authority.
    """
    current, left = chain[0], chain[1:]
    for _ in range(MAX_CHAIN):
        if any(_has_issued(authority, current, at) for authority in authorities):
            return
        issuer = next((each for each in left if _has_issued(each, current, at)), None)
        if issuer is None:
            break
        left.remove(issuer)
        current = issuer
    raise BadSignature("no authority that --signature_keys trusts has issued its certificate")


def _has_issued(authority: Any, certificate: Any, at: datetime) -> bool:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    try:
        constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
        certificate.verify_directly_issued_by(authority)
    except (x509.ExtensionNotFound, InvalidSignature, ValueError, TypeError):
        return False
    return bool(constraints.ca) and authority.not_valid_before_utc <= at <= authority.not_valid_after_utc


def _check_usage(certificate: Any) -> None:
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    extensions = certificate.extensions
    try:
        signs = extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound:
        signs = False
    try:
        purposes = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        purposes = set()
    if ExtendedKeyUsageOID.CODE_SIGNING in purposes:
        return
    if not signs:
        raise BadSignature(
            "its certificate is not for signing code: it lacks the usages digitalSignature and codeSigning"
        )
    if purposes and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in purposes:
        raise BadSignature("its certificate is for other purposes than signing code: it lacks the usage codeSigning")
