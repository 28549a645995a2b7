"""Keyless signatures: made with a key that existed for minutes, by a person or a workflow that Sigstore identified.

Sigstore's certificate authority writes the identity into the certificate, and its log records when the signature was
made. Everything that a verifier needs is in the signature's file and in the trusted root, so nothing is requested over
the network. The checks are those of the package sigstore, which model-signing uses as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace_server.config.paths import as_path
from headrace_server.errors import invalid, unreadable
from headrace_server.security.models.bundle import PAYLOAD_TYPE, BadSignature
from headrace_server.security.packages import needs

_ISSUER = "1.3.6.1.4.1.57264.1.1"
"""The extension of a certificate with the OpenID provider's URL. Source: Fulcio, docs/oid-info.md."""


@dataclass(frozen=True, slots=True)
class KeylessOptions:
    """Whose keyless signatures are trusted.

    Attributes:
        identities: E-mail addresses or URIs, as in the certificates.
        issuer: URL of the OpenID provider that confirmed the identities.
        trust_root: JSON file with Sigstore's trusted root.
    """

    identities: Sequence[str] = ()
    issuer: str = ""
    trust_root: str = ""

    def check(self, where: str = "", prefix: str = "") -> None:
        """Refuses an incomplete set of options.

        Args:
            where: The beginning of the error.
            prefix: The beginning of the options' names.

        Raises:
            ServingError: INVALID_ARGUMENT, with the name of the first missing option.
        """
        values = {"identities": self.identities, "issuer": self.issuer, "trust_root": self.trust_root}
        missing = [name for name, value in values.items() if not value]
        if missing and len(missing) < len(values):
            names = ", ".join(f"{prefix}{name}" for name in values)
            raise invalid(f"{where}{names} must be given together; {prefix}{missing[0]} is missing")


class Keyless:
    """Verifies keyless signatures. Any thread.

    Args:
        options: The options, of which none may be missing.

    Raises:
        ServingError: The trusted root cannot be used, or the package sigstore is not installed.
    """

    def __init__(self, options: KeylessOptions) -> None:
        with needs("keyless"):
            import sigstore.verify  # noqa: F401 - if it is missing, `needs` names the extra
        self._verifier = _verifier(as_path(options.trust_root))
        self._policy = _Identities(options)

    def verify(self, content: bytes) -> bytes:
        """Verifies a signature, and returns the statement that it covers.

        Args:
            content: The signature's file.

        Raises:
            BadSignature: The signature is not by one of the identities, or not as Sigstore recorded it.
        """
        from sigstore.errors import Error
        from sigstore.models import Bundle

        try:
            kind, payload = self._verifier.verify_dsse(Bundle.from_json(content), self._policy)
        except BadSignature:
            raise
        except (Error, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise BadSignature(f"its keyless signature is not valid: {_reason(error)}") from error
        if kind != PAYLOAD_TYPE:
            raise BadSignature(f"it signs {kind!r}, not {PAYLOAD_TYPE!r}")
        verified: bytes = payload
        return verified


class _Identities:
    """A policy of sigstore's: the certificate must be that of one of the identities.

    Args:
        options: The identities and their issuer.
    """

    def __init__(self, options: KeylessOptions) -> None:
        from sigstore.verify import policy

        each = (policy.Identity(identity=name, issuer=options.issuer) for name in options.identities)
        self._any = policy.AnyOf(list(each))

    def verify(self, certificate: Any) -> None:
        """Refuses a certificate of another identity or another issuer.

        Raises:
            BadSignature: The certificate is refused; the text names its identity and its issuer.
        """
        from sigstore.errors import VerificationError

        try:
            self._any.verify(certificate)
        except VerificationError as error:
            text = f"its signer, {_identity(certificate)}, identified by {_issuer(certificate)}, is not trusted"
            raise BadSignature(text) from error


def _identity(certificate: Any) -> str:
    from cryptography import x509

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    kinds: tuple[Any, ...] = (x509.RFC822Name, x509.UniformResourceIdentifier)
    return ", ".join(value for kind in kinds for value in names.get_values_for_type(kind)) or "somebody without a name"


def _issuer(certificate: Any) -> str:
    from cryptography import x509

    try:
        value = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(_ISSUER)).value.value
    except x509.ExtensionNotFound:
        return "nobody"
    issuer: str = value.decode(errors="replace")
    return issuer


def _verifier(path: Path) -> Any:
    from sigstore.errors import Error
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier

    try:
        return Verifier(trusted_root=TrustedRoot.from_file(str(path)))
    except OSError as error:
        raise unreadable(path, error) from error
    except (Error, ValueError, TypeError) as error:
        raise invalid(f"{path} must be a trusted root of Sigstore, in JSON: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """One line about an error of sigstore's, or about the first wrong value in a file of JSON."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
    return next(iter(str(error).splitlines()), type(error).__name__)
