"""Which versions serve, and what of that the transport is told, which answers plain calls unseen."""

from collections.abc import Callable, Collection, Mapping
from threading import Lock

from headrace_server.models.servable import Servable

Tell = Callable[[str, Mapping[int, Servable], int], None]
"""Told of a model's name, its versions, and which one a call without a version is for."""


class Publishing:
    """Keeps which versions serve, and tells the transport of those whose calls nobody else has to see. Any thread.

    Args:
        tell: The transport's: replaces what it knows of one model.
        is_plain: Whether the calls of a model, by its name, need not be seen.

    Attributes:
        serving: The versions that serve, by model and by number.
        latest: Which of them a call without a version is for, by model.
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
        """Tells of models once more: whether their calls have to be seen may have changed."""
        with self._lock:
            for name in names:
                self._publish(name)

    def _publish(self, name: str) -> None:
        versions = self.serving.get(name, {}) if self._is_plain(name) else {}
        self._tell(name, versions, self.latest.get(name, 0))
