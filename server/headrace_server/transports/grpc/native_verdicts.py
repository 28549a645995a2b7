"""Verdicts that the native transport keeps, so that it can answer plain calls of known callers."""

import json

import headrace_native as native

from headrace_server.security.account import Account, Limits
from headrace_server.security.audit import short
from headrace_server.security.verdicts import Verdict
from headrace_server.transports.grpc.handlers import truncated


class NativeVerdicts:
    """The native implementation of `security.verdicts.Verdicts`.

    Args:
        audits: Whether there is an audit log.
    """

    def __init__(self, *, audits: bool) -> None:
        self.lines = native.AuditLines() if audits else None
        self.native = native.Verdicts(self.lines)

    @property
    def generation(self) -> int:
        """See `Verdicts`."""
        return self.native.generation

    def account(self, limits: Limits) -> Account:
        """See `Verdicts`."""
        return native.Account(limits.calls_per_second, limits.rows_per_second, limits.concurrent_calls)

    def put(self, generation: int, verdict: Verdict) -> None:
        """See `Verdicts`."""
        credentials, account = verdict.credentials, verdict.account
        assert account is None or isinstance(account, native.Account)  # `account` has made it
        self.native.put(
            generation,
            (credentials.certificate, credentials.authorization.encode("latin-1", "replace")),
            verdict.model,
            seconds=verdict.seconds,
            account=account,
            low=verdict.low,
            exhausted=truncated(verdict.exhausted),
            names=(json.dumps(verdict.who or None), json.dumps(short(verdict.model))),
        )

    def clear(self) -> None:
        """See `Verdicts`."""
        self.native.clear()
