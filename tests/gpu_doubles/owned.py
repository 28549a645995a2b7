"""TensorRT objects: the context of their device must be current when Python garbage collects them."""

from .machine import Machine


class Owned:
    """An object of TensorRT with device memory.

    Args:
        machine: The machine in whose current context the object is made.
        what: The object's name in complaints.
        size: The object's device memory in bytes.
    """

    def __init__(self, machine: Machine, what: str, size: int) -> None:
        self._what = what
        self._device = machine.enter(what)
        self._machine = machine
        self._own = machine.new_memory(size, self._device)
        with machine.alive(what) as number:
            self._number = number

    def __del__(self) -> None:
        if not hasattr(self, "_number"):
            return
        if not self._machine.stack or self._machine.stack[-1].device != self._device:
            self._machine.complain(f"{self._what} is dropped on a thread without its context")
            return
        try:
            self._machine.free_memory(self._own)
            del self._machine.live[self._number]
        except AssertionError:
            pass  # the machine has recorded the complaint
