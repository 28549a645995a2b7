"""Facts from a model's file that tell the trial which inputs to try."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hints:
    """What a model's file says about the inputs that reveal the most.

    Attributes:
        numbers: Numbers that the lengths of inputs may be compared with or cut to, in increasing order.
        any_integers: Whether integers of any size are harmless: none decides the size of an array, a number of steps,
            or whether the process crashes.
    """

    numbers: tuple[int, ...] = ()
    any_integers: bool = False


NO_HINTS = Hints()
