"""Who uses something that is to be freed once nobody does."""

from threading import Condition, Lock


class Leases:
    """Counts those who use it, and waits for them at its end. Any thread.

    Attributes:
        retired: Whether its end has come.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._left = Condition(self._lock)
        self._count = 0
        self.retired = False

    @property
    def taken(self) -> bool:
        """Whether there is a user now."""
        return self._count > 0

    def take(self) -> bool:
        """One user more; False if it is at its end."""
        with self._lock:
            self._count += not self.retired
            return not self.retired

    def give_back(self) -> None:
        """One user less."""
        with self._lock:
            self._count -= 1
            if self.retired:
                self._left.notify_all()

    def retire(self) -> None:
        """Takes no more users, and returns when the last has gone."""
        with self._left:
            self.retired = True
            self._left.wait_for(lambda: not self._count)
