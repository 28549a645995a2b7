"""Callers, and the credentials that they have shown."""

from dataclasses import dataclass, field

from headrace_protos import Code
from headrace_server.errors import ServingError

ANONYMOUS_NAME = "anonymous"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of a call.

    Attributes:
        authorization: The `authorization` header; empty if there is none. Never shown.
        certificate: The client's certificate in DER, which the transport has verified; empty if there is none.
        peer: The caller's address, for the audit log.
    """

    authorization: str = field(default="", repr=False)
    certificate: bytes = field(default=b"", repr=False)
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    Attributes:
        name: The name with its kind in front, such as `key:shop`, `jwt:alice`, `cert:trainer`: names of one kind cannot
            be taken for those of another. `anonymous` for a call without credentials.
        groups: The groups, with their kind in front, too, such as `jwt-group:analysts`.
        expires: When the credentials expire, in seconds since 1970; None means never.
    """

    name: str
    groups: frozenset[str] = frozenset()
    expires: float | None = None

    @property
    def is_anonymous(self) -> bool:
        """Whether the caller is not authenticated."""
        return self.name == ANONYMOUS_NAME


ANONYMOUS = Principal(ANONYMOUS_NAME)


class Refused(ServingError):
    """A call that its caller is not allowed to make, or not at this time.

    Attributes:
        retry_after: Seconds after which the call may be made; None if waiting does not help.
    """

    def __init__(self, code: Code, message: str, retry_after: float | None = None) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after


def unauthenticated(message: str) -> Refused:
    """An error with the code UNAUTHENTICATED: the caller is not known."""
    return Refused(Code.UNAUTHENTICATED, message)
