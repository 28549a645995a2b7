"""Who calls, and what they have shown to prove it."""

from dataclasses import dataclass, field

from headrace_protos import Code
from headrace_server.errors import ServingError

ANONYMOUS_NAME = "anonymous"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What comes with a call.

    Attributes:
        authorization: The header of that name; empty for none. Never shown.
        certificate: The client's own, in DER, which the transport has verified; empty for none.
        peer: The caller's address, for the audit log.
    """

    authorization: str = field(default="", repr=False)
    certificate: bytes = field(default=b"", repr=False)
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who is known.

    Attributes:
        name: With its kind in front, such as `key:shop`, `jwt:alice`, `cert:trainer`: names of one kind cannot be taken
            for those of another. `anonymous` for a call without credentials.
        groups: Also with their kind, as `jwt-group:analysts`.
        expires: Seconds since 1970 at which the credentials end; None for never.
    """

    name: str
    groups: frozenset[str] = frozenset()
    expires: float | None = None

    @property
    def is_anonymous(self) -> bool:
        """Whether nobody knows who it is."""
        return self.name == ANONYMOUS_NAME


ANONYMOUS = Principal(ANONYMOUS_NAME)


class Refused(ServingError):
    """A call that its caller may not make, or not now.

    Attributes:
        retry_after: Seconds after which it may be made; None where time changes nothing.
    """

    def __init__(self, code: Code, message: str, retry_after: float | None = None) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after


def unauthenticated(message: str) -> Refused:
    """An UNAUTHENTICATED: it is not known who calls."""
    return Refused(Code.UNAUTHENTICATED, message)
