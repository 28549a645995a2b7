"""Keys and certificates for tests, made by the openssl command, and SSLConfig files that contain them."""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from google.protobuf import text_format

from headrace_protos import SSLConfig

# openssl's default would allow every certificate to sign others; some checks of client certificates refuse that.
LEAF = ("-addext", "basicConstraints=critical,CA:FALSE")


class Pem(NamedTuple):
    """A key and its certificate, as text."""

    key: str
    certificate: str


class Authority:
    """An authority that signs certificates for localhost with the openssl command."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.pem = self._signed("ca")

    def sign(self, name: str, curve: str = "P-256") -> Pem:
        """A new key, and a certificate for it."""
        return self._signed(
            name, "-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "subjectAltName=DNS:localhost", *LEAF, curve=curve
        )

    def alone(self, name: str) -> Pem:
        """A new key, and a certificate for localhost that is its own authority."""
        return self._signed(name, "-addext", "subjectAltName=DNS:localhost")

    def _signed(self, name: str, *how: str, curve: str = "P-256") -> Pem:
        key, certificate = f"{name}.key", f"{name}.pem"
        command = ["openssl", "req", "-x509", *how, "-newkey", "ec", "-pkeyopt", f"ec_paramgen_curve:{curve}", "-nodes"]
        subprocess.run(
            [*command, "-keyout", key, "-out", certificate, "-subj", f"/CN={name}", "-days", "2"],
            cwd=self._folder,
            check=True,
            capture_output=True,
        )
        return Pem((self._folder / key).read_text(), (self._folder / certificate).read_text())


def write(path: Path, pem: Pem, **fields: object) -> Path:
    """Writes an SSLConfig file atomically."""
    config = SSLConfig(server_key=pem.key, server_cert=pem.certificate, **fields)  # type: ignore[arg-type]
    new = path.with_suffix(".new")
    new.write_text(text_format.MessageToString(config))
    os.replace(new, path)
    return path
