"""Facts from a model's file that tell the trial which inputs to try."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace_server.backends.independence.categories import Categories


@dataclass(frozen=True, slots=True)
class Hints:
    """What a model's file says about the inputs that reveal the most.

    Attributes:
        numbers: Numbers that the lengths of inputs may be compared with or cut to, in increasing order.
        categories: For inputs with names or numbers of categories, the values that the model knows. The inputs have
            their names in the file, but in a `Subject` their aliases.
        any_integers: Whether integers of any size are harmless: none decides the size of an array, a number of steps,
            or whether the process crashes.
    """

    numbers: tuple[int, ...] = ()
    categories: Mapping[str, Categories] = field(default_factory=dict)
    any_integers: bool = False


NO_HINTS = Hints()
