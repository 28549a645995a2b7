"""Tracks which versions serve, and for which of them the transport may answer calls itself."""

from collections.abc import Callable, Collection, Mapping
from threading import Lock

from headrace_server.models.servable import Servable

Tell = Callable[[str, Mapping[int, Servable], int], None]
"""Called with a model's name, its versions, and the one for calls without a version."""


class Publishing:
    """Keeps the versions that serve, and sets for which models the transport may answer calls itself. Any thread.

    Args:
        tell: Updates the transport's information about one model.
        is_plain: Whether the transport may answer the calls of a model, given by name.

    Attributes:
        serving: The versions that serve, by model and by number.
        latest: The version that answers calls which name none, by model.
    """

    def __init__(self, tell: Tell, is_plain: Callable[[str], bool]) -> None:
        self._tell = tell
        self._is_plain = is_plain
        self._lock = Lock()
        self.serving: dict[str, Mapping[int, Servable]] = {}
        self.latest: dict[str, int] = {}

    def publish(self, name: str, versions: Mapping[int, Servable], latest: int) -> None:
        """Replaces a model's versions."""
        with self._lock:
            self.serving[name] = versions
            self.latest[name] = latest
            self._publish(name)

    def again(self, names: Collection[str]) -> None:
        """Tells the transport about models again, since it may now be allowed, or forbidden, to answer their calls."""
        with self._lock:
            for name in names:
                self._publish(name)

    def _publish(self, name: str) -> None:
        versions = self.serving.get(name, {}) if self._is_plain(name) else {}
        self._tell(name, versions, self.latest.get(name, 0))
