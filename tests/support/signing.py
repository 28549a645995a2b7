"""Keys and certificates that sign models, as files."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


class KeyFiles(NamedTuple):
    """A key pair in PEM."""

    private: Path
    public: Path


def key_pair(folder: Path, name: str = "signer", curve: ec.EllipticCurve | None = None) -> KeyFiles:
    """A new pair."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    files = KeyFiles(folder / f"{name}.key", folder / f"{name}.pub")
    files.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return files


class Chain:
    """A certificate authority, an intermediate one, and signers.

    Args:
        folder: The folder for the files.
        name: The name of the authority.
    """

    def __init__(self, folder: Path, name: str = "root") -> None:
        self._folder = folder
        self._root_key, self.root = self._make(name, ca=True)
        self._middle_key, self._middle = self._make(f"{name}-middle", ca=True, by=(self._root_key, self.root))
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self.root.public_bytes(Encoding.PEM))

    def signer(
        self,
        name: str = "release",
        *,
        usage: bool = True,
        days: int = 1,
        purposes: Sequence[x509.ObjectIdentifier] = (),
    ) -> tuple[Path, Path]:
        """The files of a signer's key, and of its certificate with the intermediate one."""
        by = (self._middle_key, self._middle)
        key, certificate = self._make(name, ca=False, by=by, usage=usage, days=days, purposes=purposes)
        files = self._folder / f"{name}.key", self._folder / f"{name}.pem"
        files[0].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        files[1].write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in (certificate, self._middle)))
        return files

    def _make(
        self,
        name: str,
        *,
        ca: bool,
        by: Any = None,
        usage: bool = True,
        days: int = 1,
        purposes: Sequence[x509.ObjectIdentifier] = (),
    ) -> tuple[Any, Any]:
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(by[1].subject if by else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=12))
            .not_valid_after(now + timedelta(days=days) if days > 0 else now - timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if usage:
            bits = dict.fromkeys(
                ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
            )
            both = {"digital_signature": not ca, "key_cert_sign": ca, "crl_sign": ca, "decipher_only": False}
            builder = builder.add_extension(x509.KeyUsage(**bits, **both), critical=True)
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        return key, builder.sign(by[0] if by else key, hashes.SHA256())
