"""Counts the users of something that is freed once nobody uses it."""

from threading import Condition, Lock


class Leases:
    """Counts users, and waits for them at the end. Any thread.

    Attributes:
        retired: Whether no more users are accepted.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._left: Condition | None = None  # made when it is needed: thousands of versions may be loaded
        self._count = 0
        self.retired = False

    @property
    def taken(self) -> bool:
        """Whether there is a user now."""
        return self._count > 0

    def take(self) -> bool:
        """Adds a user; False if no more users are accepted."""
        with self._lock:
            self._count += not self.retired
            return not self.retired

    def give_back(self) -> None:
        """Removes a user."""
        with self._lock:
            self._count -= 1
            if self._left is not None:
                self._left.notify_all()

    def retire(self) -> None:
        """Accepts no more users, and returns when the last one has gone."""
        with self._lock:
            self.retired = True
            left = self._left = self._left or Condition(self._lock)
            left.wait_for(lambda: not self._count)
