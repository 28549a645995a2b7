"""Verdicts that a transport keeps, so that it need not ask for each call; and the accounts that they draw on."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

from headrace_server.security.account import Account, Limits, LocalAccount
from headrace_server.security.principal import Credentials

MAX_ACCOUNTS = 100_000
"""Accounts that are kept; beyond them those that were not used for longest begin anew."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """That calls with some credentials may run a model.

    Attributes:
        credentials: Of such calls.
        model: Its name.
        seconds: For how long; None for ever.
        account: What they draw on; None for as much as they want.
        low: Whether they let other calls go first.
    """

    credentials: Credentials
    model: str
    seconds: float | None
    account: Account | None
    low: bool


class Verdicts(Protocol):
    """Keeps verdicts that allow calls to run a model. Any thread."""

    @property
    def generation(self) -> int:
        """To be read before what a verdict follows from."""

    def account(self, limits: Limits) -> Account:
        """A new account, which this can draw on, too."""

    def put(self, generation: int, verdict: Verdict) -> None:
        """Keeps a verdict, unless all has been forgotten since that generation."""

    def clear(self) -> None:
        """Forgets all: what they followed from has changed."""


class NoVerdicts:
    """Keeps none: every call is looked at."""

    generation = 0

    def account(self, limits: Limits) -> Account:
        """As `Verdicts`."""
        return LocalAccount(limits)

    def put(self, generation: int, verdict: Verdict) -> None:
        """Nothing."""

    def clear(self) -> None:
        """Nothing."""


class Accounts:
    """One account for each principal and rule that has limits. Any thread.

    Args:
        make: Makes a new one.
    """

    def __init__(self, make: Callable[[Limits], Account]) -> None:
        self._make = make
        self._lock = Lock()
        self._accounts: OrderedDict[tuple[str, int, Limits], Account] = OrderedDict()

    def of(self, principal: str, rule: int, limits: Limits) -> Account | None:
        """That of a principal under a rule; None where the rule has no limits."""
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
