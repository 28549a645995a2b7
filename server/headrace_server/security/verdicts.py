"""Verdicts that a transport keeps, so that it asks the gate less often, and the accounts that they charge."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

from headrace_server.security.account import Account, Limits, LocalAccount
from headrace_server.security.audit import Lines
from headrace_server.security.principal import Credentials

MAX_ACCOUNTS = 100_000
"""The maximum number of accounts that are kept; beyond them, the least recently used ones start over."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Says that calls with certain credentials may run a model.

    Attributes:
        credentials: The credentials of these calls.
        model: The model's name.
        seconds: How long the verdict is valid; None means forever.
        account: The account to charge; None means no limits.
        low: Whether the calls run after those of others.
        exhausted: The text of the refusal if the account admits no call.
        who: The principal's name, for the audit log.
    """

    credentials: Credentials
    model: str
    seconds: float | None
    account: Account | None
    low: bool
    exhausted: str = ""
    who: str = ""


class Verdicts(Protocol):
    """Keeps verdicts that allow calls to run a model. Any thread."""

    @property
    def lines(self) -> Lines | None:
        """The audit log's lines about calls that the transport answered itself; None if there are none."""

    @property
    def generation(self) -> int:
        """How often all verdicts have been forgotten; to be read before anything that a verdict depends on."""

    def account(self, limits: Limits) -> Account:
        """Creates an account that the transport can also charge."""

    def put(self, generation: int, verdict: Verdict) -> None:
        """Keeps a verdict, unless all verdicts have been forgotten after this generation was read."""

    def clear(self) -> None:
        """Forgets all verdicts, because the keys, the tokens or the policy have changed."""


class NoVerdicts:
    """Verdicts for a transport that keeps none: every call is checked."""

    generation = 0
    lines = None

    def account(self, limits: Limits) -> Account:
        """See `Verdicts`."""
        return LocalAccount(limits)

    def put(self, generation: int, verdict: Verdict) -> None:
        """Does nothing."""

    def clear(self) -> None:
        """Does nothing."""


class Accounts:
    """One account for each principal and rule that has limits. Any thread.

    Args:
        make: Creates a new account.
    """

    def __init__(self, make: Callable[[Limits], Account]) -> None:
        self._make = make
        self._lock = Lock()
        self._accounts: OrderedDict[tuple[str, int, Limits], Account] = OrderedDict()

    def of(self, principal: str, rule: int, limits: Limits) -> Account | None:
        """The account of a principal under a rule; None if the rule has no limits."""
        if limits.are_none:
            return None
        key = (principal, rule, limits)
        with self._lock:
            account = self._accounts.get(key)
            if account is None:
                account = self._accounts[key] = self._make(limits)
                if len(self._accounts) > MAX_ACCOUNTS:
                    self._accounts.popitem(last=False)
            self._accounts.move_to_end(key)
            return account
