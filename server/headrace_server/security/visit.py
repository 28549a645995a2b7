"""One call on its way through the gate: who makes it, under which rule, and with how many rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from headrace_batching import Priority
from headrace_server.security.account import Account
from headrace_server.security.principal import Credentials, Principal


class Visit:
    """A call, as the gate knows it: who makes it, and what it is charged.

    Args:
        credentials: The call's credentials.

    Attributes:
        principal: The caller; None until it is known.
        priority: The priority of the call's tasks.
        rows: The number of rows that the call has run so far.
        generation: The generation of the transport's verdicts when the call entered.
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
        """Records that an account has admitted the call, until it ends; a stream counts as one call."""
        if account in self._accounts:
            account.release()
        else:
            self._accounts.append(account)

    def charge(self, rows: int) -> None:
        """Charges for rows that are run."""
        self.rows += rows
        for account in self._accounts:
            account.charge(rows)

    def leave(self) -> None:
        """Records that the call has ended."""
        while self._accounts:
            self._accounts.pop().release()


_VISIT: ContextVar[Visit | None] = ContextVar("visit", default=None)


def visit_now() -> Visit | None:
    """The call that the current task answers; None if calls are not guarded."""
    return _VISIT.get()


def begin_visit(visit: Visit) -> None:
    """Records the call that the rest of the current task runs for."""
    _VISIT.set(visit)


@contextmanager
def within_a_call() -> Iterator[None]:
    """A context for the inner runs of a run that has already been charged: they are not charged again."""
    token = _VISIT.set(None)
    try:
        yield
    finally:
        _VISIT.reset(token)
