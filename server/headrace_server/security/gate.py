"""The single decision on whether a call is allowed. Both transports, gRPC and HTTP, ask here and nowhere else."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event, Thread
from typing import Protocol

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.security.account import Account
from headrace_server.security.audit import AuditLog, Entry
from headrace_server.security.followed import FollowedFile
from headrace_server.security.keys import PREFIX, Keys, check_key
from headrace_server.security.methods import Action, Models, Need
from headrace_server.security.policy import NOBODY_IS_KNOWN, WITHOUT_A_FILE, Grant, Policy
from headrace_server.security.principal import ANONYMOUS, Credentials, Principal, Refused, unauthenticated
from headrace_server.security.tokens import Tokens
from headrace_server.security.verdicts import Accounts, Verdict, Verdicts
from headrace_server.security.visit import Visit

log = logging.getLogger(__name__)

CHECKING_THREADS = 4
"""The number of threads that check tokens, or wait for their issuer's keys."""

MISSING = "credentials are missing: send the header `authorization: Bearer ...`"

LOOK_SECONDS = 1.0
"""Seconds between two checks of the files, after which a revoked key is refused."""


class CheckCertificate(Protocol):
    """Maps a client's verified certificate to its principal."""

    def __call__(self, certificate: bytes) -> Principal:
        """Raises `Refused` if the certificate names no principal."""


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways in which callers can authenticate; None for a way that is not accepted.

    Attributes:
        keys: API keys.
        tokens: Tokens of an issuer.
        certificates: Certificates of clients.
    """

    keys: FollowedFile[Keys] | None = None
    tokens: Tokens | None = None
    certificates: CheckCertificate | None = None

    @property
    def are_none(self) -> bool:
        """Whether no caller can authenticate."""
        return self.keys is None and self.tokens is None and self.certificates is None


class Gate:
    """Decides about calls. Any thread, except for `enter`, which is for the event loop.

    Args:
        ways: How callers authenticate; without any, all are anonymous, and rules refer to them as `anonymous`.
        policy: The rights of callers.
        open_actions: The actions that need no credentials.
        verdicts: Keeps verdicts for the transport.
        audit: The audit log; None if there is none.
    """

    def __init__(
        self,
        ways: Ways,
        policy: FollowedFile[Policy] | None,
        open_actions: Collection[Action],
        verdicts: Verdicts,
        audit: AuditLog | None = None,
    ) -> None:
        self._ways = ways
        self._policy = policy
        self._open = frozenset((*open_actions, Action.PUBLIC))
        self.verdicts = verdicts
        self._accounts = Accounts(verdicts.account)
        self._audit = audit
        # Tokens are checked on threads of their own: an issuer that does not answer must not delay anything else.
        self._checking = ThreadPoolExecutor(CHECKING_THREADS, "gate-tokens")
        self._stopping = Event()
        # An issuer that does not answer must not delay the files either, so it has a thread of its own.
        self._files = Thread(target=self._watch, args=(self.look_at_files,), name="gate", daemon=True)
        self._issuer = Thread(target=self._watch, args=(self.look_at_issuer,), name="gate-issuer", daemon=True)

    @property
    def audits(self) -> bool:
        """Whether every call is logged."""
        return self._audit is not None

    def start(self) -> None:
        """Starts watching the gate's files, and writing the transport's lines of the audit log."""
        self._files.start()
        if self._ways.tokens is not None:
            self._issuer.start()
        if self._audit is not None and self.verdicts.lines is not None:
            self._audit.follow(self.verdicts.lines)

    def stop(self) -> None:
        """Stops watching, without waiting for an issuer that does not answer."""
        self._stopping.set()
        if self._files.is_alive():
            self._files.join()
        self._checking.shutdown(wait=False, cancel_futures=True)
        if self._audit is not None:
            self._audit.close()

    async def enter(self, visit: Visit, action: Action | None) -> None:
        """Determines who makes a call.

        Args:
            visit: The call, whose caller is identified here.
            action: The action of the call; for actions that need no credentials, invalid credentials count as none.

        Raises:
            Refused: UNAUTHENTICATED if the credentials are invalid or have expired, or are missing and no rule lets
                anybody do this without them: then the message of the call need not be parsed.
            ServingError: UNAVAILABLE if the credentials cannot be checked now.
        """
        visit.generation = self.verdicts.generation  # read before anything that a verdict depends on
        try:
            visit.principal = _unexpired(await self._principal(visit.credentials))
        except ServingError:
            if action not in self._open:
                raise
            visit.principal = ANONYMOUS
        if action is None or action in self._open or self._ways.are_none:
            return
        if visit.principal.is_anonymous and self._in_force.rule_without_model(ANONYMOUS, action) is None:
            raise unauthenticated(MISSING)

    def admit(self, visit: Visit, need: Need) -> None:
        """Decides whether a call of a known caller may continue.

        Args:
            visit: The call, which uses its quota until it ends.
            need: The right that the call needs.

        Raises:
            Refused: UNAUTHENTICATED, PERMISSION_DENIED, or RESOURCE_EXHAUSTED with the time after which to try again.
        """
        principal = visit.principal
        assert principal is not None  # `enter` has set it
        if need.action is None:
            raise Refused(Code.PERMISSION_DENIED, "no caller may call this method")
        if need.action in self._open and not need.models:
            return
        rules = self._rules(principal, need.action, need.models)
        if None in rules:
            raise self._refusal(principal, need, rules.index(None))
        for model, rule in zip(need.models or ("",), rules, strict=True):
            assert rule is not None
            account = self._draw(visit, principal, rule)
            if need.action is Action.PREDICT and model:
                self._keep(visit, principal, rule, model, account)

    def write(self, visit: Visit, method: str, model: str, code: str, seconds: float) -> None:
        """Logs a call that has ended."""
        if self._audit is not None:
            peer = visit.credentials.peer
            self._audit.write(Entry(visit.who, peer, method, model, visit.rows, code, seconds))

    def look(self) -> None:
        """Checks whether anything has changed that verdicts depend on."""
        self.look_at_files()
        self.look_at_issuer()

    def look_at_files(self) -> None:
        """Checks whether the keys or the policy have changed."""
        changed = [each.look() for each in (self._ways.keys, self._policy) if each is not None]  # both must be checked
        if any(changed):
            self.verdicts.clear()

    def look_at_issuer(self) -> None:
        """Checks whether the issuer of tokens has withdrawn a key. May wait for the issuer."""
        if self._ways.tokens is not None and self._ways.tokens.look():
            self.verdicts.clear()

    async def _principal(self, credentials: Credentials) -> Principal:
        tokens = self._ways.tokens
        token = _bearer(credentials.authorization) if credentials.authorization else ""
        if token and tokens is not None and not token.startswith(PREFIX):
            known = tokens.known(token)
            if known is not None:
                return known
            return await asyncio.get_running_loop().run_in_executor(self._checking, tokens.check, token)
        return self._known(credentials, token)

    def _known(self, credentials: Credentials, token: str) -> Principal:
        """The principal of an API key, a certificate, or no credentials."""
        keys, certificates = self._ways.keys, self._ways.certificates
        if token:
            if keys is None:
                raise unauthenticated("the server does not accept this kind of credentials")
            return check_key(token, keys.value, time.time())
        if credentials.certificate and certificates is not None:
            return certificates(credentials.certificate)
        return ANONYMOUS

    def _rules(self, principal: Principal, action: Action, models: Models) -> list[Grant | None]:
        """The rules that allow a call, for each of its models; None for a model without such a rule."""
        policy = self._in_force
        if not models:
            return [policy.rule_without_model(principal, action)]
        return [policy.rule_for(principal, action, model) for model in models]

    @property
    def _in_force(self) -> Policy:
        if self._policy is not None:
            return self._policy.value
        return NOBODY_IS_KNOWN if self._ways.are_none else WITHOUT_A_FILE

    def _draw(self, visit: Visit, principal: Principal, rule: Grant) -> Account | None:
        """Charges a call to the caller's account under a rule, and returns the account; None if the rule has no limits.

        Raises:
            Refused: The caller has reached a limit of the rule.
        """
        visit.priority = max(visit.priority, rule.priority)
        account = self._accounts.of(principal.name, rule.number, rule.limits)
        if account is not None:
            wait = account.admit()
            if wait is not None:
                raise Refused(Code.RESOURCE_EXHAUSTED, _exhausted(principal, rule), retry_after=wait)
            visit.hold(account)
        return account

    def _keep(self, visit: Visit, principal: Principal, rule: Grant, model: str, account: Account | None) -> None:
        """Keeps a verdict for later calls, as long as their credentials are valid."""
        left = None if principal.expires is None else principal.expires - time.time()
        if left is not None and left <= 0:
            return
        verdict = Verdict(
            visit.credentials,
            model,
            left,
            account,
            rule.is_low,
            exhausted=_exhausted(principal, rule),
            who=principal.name,
        )
        self.verdicts.put(visit.generation, verdict)

    def _refusal(self, principal: Principal, need: Need, at: int) -> Refused:
        """The refusal of a call for its model at a position. Its text is the same if there is no such model."""
        if principal.is_anonymous and not self._ways.are_none:
            return unauthenticated(MISSING)
        refused = need.models[at : at + 1]
        about = "".join(f" of model {model}" if model is not None else " of all models" for model in refused)
        return Refused(Code.PERMISSION_DENIED, f"{principal.name} has no right to {need.action or 'this call'}{about}")

    def _watch(self, look: Callable[[], None]) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                look()
            except Exception:
                log.exception("changes of the keys, the policy or the tokens' issuer cannot be noticed")


def _exhausted(principal: Principal, rule: Grant) -> str:
    return f"{principal.name} has reached the limit of rule {rule.number} of the policy; try again later"


def _unexpired(principal: Principal) -> Principal:
    """Returns a principal whose credentials are still valid.

    A transport checks a certificate only when a connection begins, which may last longer than the certificate.

    Raises:
        Refused: UNAUTHENTICATED if the credentials have expired.
    """
    if principal.expires is not None and time.time() >= principal.expires:
        raise unauthenticated("the credentials have expired")
    return principal


def _bearer(authorization: str) -> str:
    """The token of an authorization header.

    Raises:
        Refused: UNAUTHENTICATED if there is no token in it.
    """
    scheme, _, token = authorization.strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise unauthenticated("the authorization header must consist of `Bearer` and a token")
    return token.strip()
