"""One call on its way through the gate: who makes it, under which rule, and how many rows it has."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from headrace_batching import Priority
from headrace_server.security.account import Account
from headrace_server.security.principal import Credentials, Principal


class Visit:
    """One call.

    Args:
        credentials: What came with it.

    Attributes:
        principal: Who makes it; None until that is known.
        priority: Of its tasks.
        rows: That it has run until now.
        generation: That of the transport's verdicts when it entered.
    """

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self.principal: Principal | None = None
        self.priority = Priority.NORMAL
        self.rows = 0
        self.generation = 0
        self._accounts: list[Account] = []

    @property
    def who(self) -> str:
        """The principal's name; empty while it is not known."""
        return "" if self.principal is None else self.principal.name

    def hold(self, account: Account) -> None:
        """Has been admitted by an account, until it leaves; a stream counts as one call, however many are in it."""
        if account in self._accounts:
            account.release()
        else:
            self._accounts.append(account)

    def charge(self, rows: int) -> None:
        """Has rows run."""
        self.rows += rows
        for account in self._accounts:
            account.charge(rows)

    def leave(self) -> None:
        """Has ended."""
        while self._accounts:
            self._accounts.pop().release()


_VISIT: ContextVar[Visit | None] = ContextVar("visit", default=None)


def visit_now() -> Visit | None:
    """The call that this runs for; None where nobody guards calls."""
    return _VISIT.get()


def begin_visit(visit: Visit) -> None:
    """Lets the rest of this task, which is one call's, run for it."""
    _VISIT.set(visit)


@contextmanager
def within_a_call() -> Iterator[None]:
    """Runs a block whose runs of models are parts of one that has been charged for."""
    token = _VISIT.set(None)
    try:
        yield
    finally:
        _VISIT.reset(token)
