"""Creates the gate from the flags."""

from pathlib import Path

from headrace_server.config.paths import as_path
from headrace_server.config.security import AuthOptions
from headrace_server.config.signing import SigningOptions
from headrace_server.security.audit import AuditLog
from headrace_server.security.certificates import check_certificate
from headrace_server.security.followed import FollowedFile
from headrace_server.security.gate import Gate, Ways
from headrace_server.security.issuer_documents import secure_url
from headrace_server.security.keys import read_keys
from headrace_server.security.methods import Action
from headrace_server.security.models.age import identities_of
from headrace_server.security.models.keyless import KeylessOptions
from headrace_server.security.models.model_keys import KeySource
from headrace_server.security.models.opening import Opener
from headrace_server.security.models.roots import Root, Trust, make_signers, read_roots
from headrace_server.security.packages import needs
from headrace_server.security.policy import read_policy
from headrace_server.security.tokens import KeySet, TokenOptions, Tokens
from headrace_server.security.verdicts import Verdicts


def make_gate(options: AuthOptions, audit_log: str, verdicts: Verdicts) -> Gate:
    """The gate that all calls pass through.

    Args:
        options: Options of a server that has a gate.
        audit_log: The file of the audit log; empty if there is none.
        verdicts: The transport's verdicts.

    Raises:
        ServingError: A file cannot be read, or a package is missing.
    """
    keys, policy = options.keys_file, options.policy_file
    if options.certificates:
        with needs("auth"):
            import cryptography  # noqa: F401 - a missing package is reported now, and not at the first call
    ways = Ways(
        FollowedFile(Path(keys), read_keys) if keys else None,
        _tokens(options) if options.jwt_issuer else None,
        check_certificate if options.certificates else None,
    )
    return Gate(
        ways,
        FollowedFile(Path(policy), read_policy) if policy else None,
        [Action(name) for name in options.open],
        verdicts,
        AuditLog(Path(audit_log)) if audit_log else None,
    )


def make_opener(options: SigningOptions, variable: str, beside: tuple[str, ...]) -> Opener | None:
    """The object that verifies and unseals versions; None if neither is needed.

    Args:
        options: The trusted signatures, and the source of keys.
        variable: The environment variable's value, with model keys; empty if there is none.
        beside: Names of files next to versions that belong to the same model.

    Raises:
        ServingError: A file cannot be read, or a package is missing.
    """
    keyless = KeylessOptions(options.signature_identities, options.signature_issuer, options.signature_trust_root)
    keyless.check(prefix="--signature_")
    signers = make_signers(options.signature_keys, keyless)
    roots = read_roots(as_path(options.signature_roots_file)) if options.signature_roots_file else []
    keys = KeySource(options.model_keys_file, options.model_keys_command, variable)
    if signers is None and not roots and not any((keys.file, keys.command, keys.variable)):
        return None
    identities_of(keys.keys())  # report errors in the keys now, not at the first load
    return Opener(Trust(Root(Path("/"), options.require_signatures, signers), roots), keys, beside)


def _tokens(options: AuthOptions) -> Tokens:
    secure_url("--auth_jwt_issuer", options.jwt_issuer)
    if options.jwt_jwks_url:
        secure_url("--auth_jwt_jwks_url", options.jwt_jwks_url)
    own = TokenOptions(
        options.jwt_issuer,
        options.jwt_audience,
        options.jwt_jwks_url,
        options.jwt_name_claim,
        options.jwt_groups_claim,
        options.jwt_leeway_seconds,
    )
    return Tokens(own, KeySet(own))
