"""Who may call, and the rights of callers: API keys, tokens, certificates, and the policy."""

from dataclasses import dataclass
from typing import Any

from headrace_server.config.flag import flag
from headrace_server.errors import invalid

OPEN = ("health", "reflection", "metrics", "page")

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""The names and addresses of this machine itself."""


def _are_open(names: Any) -> bool:
    return all(name in OPEN for name in names)


@dataclass(frozen=True, kw_only=True)
class AuthOptions:
    """Flags that begin with `auth_`. Without any of them, callers need no credentials."""

    keys_file: str = flag("", "file of API keys, as `headrace keys` writes it; read again when it changes")
    policy_file: str = flag(
        "",
        "TOML file that says who may call what, and how much; read again when it changes; without it, authenticated "
        "callers may do everything except administer the server",
    )
    jwt_issuer: str = flag("", "OpenID Connect issuer whose tokens are accepted: the URL in their claim `iss`")
    jwt_audience: tuple[str, ...] = flag((), "accepted values, separated by commas, of a token's claim `aud`")
    jwt_jwks_url: str = flag("", "URL of the issuer's keys; empty means the one in the issuer's discovery document")
    jwt_name_claim: str = flag("sub", "claim in a token that holds the principal's name")
    jwt_groups_claim: str = flag("groups", "claim in a token that lists the principal's groups")
    jwt_leeway_seconds: float = flag(
        30.0, "seconds by which the clocks of issuer and server may differ", least=0, most=300
    )
    certificates: bool = flag(False, "identify clients by their certificates; needs an SSLConfig with client_verify")
    open: tuple[str, ...] = flag(
        ("health",),
        "services that need no credentials, separated by commas: health, reflection, metrics, page",
        fits=_are_open,
        words=f"a list of {', '.join(OPEN)}",
    )

    @property
    def is_on(self) -> bool:
        """Whether callers must authenticate."""
        return bool(self.keys_file or self.jwt_issuer or self.certificates)

    @property
    def guards(self) -> bool:
        """Whether any call has to be checked."""
        return self.is_on or bool(self.policy_file)

    def check(self, *, tls: bool) -> None:
        """Refuses options that contradict each other.

        Args:
            tls: Whether a file with an SSLConfig is given.

        Raises:
            ServingError: INVALID_ARGUMENT, with the flag's name.
        """
        if self.jwt_issuer and not self.jwt_audience:
            raise invalid(
                "--auth_jwt_issuer needs --auth_jwt_audience: otherwise a token for any other service would be accepted"
            )
        if not self.jwt_issuer and (self.jwt_audience or self.jwt_jwks_url):
            raise invalid("--auth_jwt_audience and --auth_jwt_jwks_url need --auth_jwt_issuer")
        if self.certificates and not tls:
            raise invalid("--auth_certificates needs --ssl_config_file or --rest_api_ssl_config_file")
