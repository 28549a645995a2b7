"""The common parts of the blocking and the asyncio client: the connection, and the declarations of models."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, Generic, TypeVar

import grpc

from headrace_client import request
from headrace_client.channels.base import Settings
from headrace_client.declared import Declared
from headrace_client.request import Hedge, Retry

C = TypeVar("C")


class Connection(ABC, Generic[C]):
    """A connection to one server over a channel of kind `C`; the clients' own docstrings describe the arguments."""

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float | None = None,
        retry: Retry = request.RETRY,
        hedge: Hedge | None = None,
        convert: bool = True,
        metadata: Collection[tuple[str, str | bytes]] = (),
        options: Collection[tuple[str, Any]] = (),
        transport: str = "auto",
    ) -> None:
        self._timeout = timeout
        self._closed = False
        self._declared = Declared(convert=convert)
        settings = Settings(
            target=target,
            credentials=credentials,
            retry=retry,
            hedge=hedge,
            metadata=tuple(metadata),
            options=tuple(options),
        )
        self._channel = self._open(transport, settings)

    @staticmethod
    @abstractmethod
    def _open(transport: str, settings: Settings) -> C:
        """Returns a channel; raises ValueError for a transport that does not support the arguments."""

    def _within(self, timeout: float | None) -> float | None:
        """Returns the timeout of a call that is made now; raises ValueError once the client is closed."""
        if self._closed:
            raise ValueError(request.CLOSED)
        return self._timeout if timeout is None else timeout
