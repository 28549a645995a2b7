"""Signed and sealed models: whose signatures are trusted, and where keys come from."""

from dataclasses import dataclass

from headrace_server.config.flag import flag
from headrace_server.errors import invalid


@dataclass(frozen=True, kw_only=True)
class SigningOptions:
    """Flags for the signatures that are checked, and the archives that are opened, before a version is loaded."""

    signature_keys: tuple[str, ...] = flag(
        (),
        "PEM files, separated by commas, of public keys or authorities' certificates: a version that has a model.sig "
        "is loaded only if it is signed with one of these keys, or with a certificate from one of these authorities",
    )
    signature_identities: tuple[str, ...] = flag(
        (),
        "identities, separated by commas, whose keyless signatures (Sigstore) are trusted as well: e-mail addresses or "
        "URIs, as in the certificates",
    )
    signature_issuer: str = flag("", "URL of the OpenID provider that confirms --signature_identities")
    signature_trust_root: str = flag(
        "",
        "JSON file with Sigstore's trusted root: the authorities and logs that keyless signatures are checked against",
    )
    require_signatures: bool = flag(
        False, "load only versions that are signed with one of --signature_keys, or by one of --signature_identities"
    )
    signature_roots_file: str = flag(
        "", "TOML file that says, for folders of models, which keys are trusted and whether signatures are required"
    )
    model_keys_file: str = flag(
        "", "file of the keys that open sealed models: each line is a key in base64, or an age identity"
    )
    model_keys_command: str = flag(
        "",
        "command that prints the keys that open sealed models, such as one that asks a key management service; it runs "
        "at each load",
    )

    def check(self) -> None:
        """Refuses options that contradict each other.

        Raises:
            ServingError: INVALID_ARGUMENT, with the flag's name.
        """
        if self.require_signatures and not self.signature_keys and not self.signature_identities:
            raise invalid("--require_signatures needs --signature_keys or --signature_identities, the trusted signers")
