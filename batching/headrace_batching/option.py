"""Declares an option once, with its type, range, default and description; flags, TOML keys and checks are derived."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from math import isfinite
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The values that an option may have.

    Attributes:
        kind: `bool`, `int`, `float`, `str`, `tuple` or `dict`.
        item: The kind of a tuple's items.
        least: The smallest number; None means no bound. It also applies to the items of a tuple.
        most: The largest number; None means no bound.
        choices: The only values; empty means any value.
        nullable: Whether the value may be None, which means "not given".
        fits: A further condition, which `words` describes.
        words: The words after "must be" in errors, for an option whose expectation cannot be derived from the rest.
    """

    kind: type
    item: type = str
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    nullable: bool = False
    fits: Callable[[Any], bool] | None = None
    words: str = ""

    @property
    def expectation(self) -> str:
        """The text after "must be" in an error, such as `a whole number of at least 1`."""
        if self.words:
            return self.words
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind is tuple:
            return f"a list of {'whole numbers' + self._range if self.item is int else 'strings'}"
        noun = {bool: "true or false", int: "a whole number", float: "a finite number", dict: "a table"}
        return noun.get(self.kind, "a string") + self._range

    @property
    def _range(self) -> str:
        if self.least is not None and self.most is not None:
            return f" from {self.least} to {self.most}"
        return "" if self.least is None else f" of at least {self.least}"

    def allows(self, value: Any) -> bool:
        """Whether a value of any type is valid for the option."""
        if value is None:
            return self.nullable
        if self.kind is tuple:
            fits = isinstance(value, (tuple, list)) and all(self._is(self.item, each) for each in value)
        else:
            fits = self._is(self.kind, value)
        return fits and (not self.choices or value in self.choices) and (self.fits is None or self.fits(value))

    def _is(self, kind: type, value: Any) -> bool:
        if kind in (int, float):
            number = isinstance(value, kind) or (kind is float and isinstance(value, int))
            return number and not isinstance(value, bool) and isfinite(value) and self._in_range(value)
        return isinstance(value, kind)

    def _in_range(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


def option(
    default: Any,
    help_text: str,
    *,
    kind: type | None = None,
    for_all: bool = False,
    metadata: Mapping[str, Any] | None = None,
    **rule: Any,
) -> Any:
    """A field of a dataclass that is an option.

    Args:
        default: The value if none is given; if this is a function, it creates a default for each object.
        help_text: One line, without a full stop.
        kind: The type of the option's values, if the default does not show it.
        for_all: Whether the option applies to all models of a server, so that one model cannot differ.
        metadata: Further metadata of the field.
        rule: Attributes of `Rule`.
    """
    made = default() if callable(default) else default
    if kind is None:
        kind = type(made)
    if kind is tuple and made and isinstance(made[0], int):
        rule.setdefault("item", int)
    own = {"help": help_text, "rule": Rule(kind=kind, **rule), "for_all": for_all, **(metadata or {})}
    if callable(default):
        return field(default_factory=default, metadata=own)
    return field(default=default, metadata=own)


def options_of(kind: Any) -> dict[str, Field[Any]]:
    """The fields of a dataclass that are options, by name, in order."""
    return {own.name: own for own in fields(kind) if "rule" in own.metadata}


def per_model(kind: Any) -> dict[str, Field[Any]]:
    """The options of a dataclass that may differ for one model, by name, in order."""
    return {name: own for name, own in options_of(kind).items() if not own.metadata["for_all"]}


def default_of(own: Field[Any]) -> Any:
    """The value of an option that is not given."""
    return own.default_factory() if own.default_factory is not MISSING else own.default


def refusal(name: str, rule: Rule, value: Any) -> str:
    """The sentence for an invalid value: `NAME must be a whole number of at least 1; was 0`."""
    return f"{name} must be {rule.expectation}; was {value!r}"


def refusals(options: Any, name_of: Callable[[Field[Any]], str] = lambda own: own.name) -> list[str]:
    """The errors in the values of an object's options, each as one sentence.

    Args:
        options: An instance of a dataclass with options.
        name_of: Returns the name by which the user knows an option.
    """
    values = [(own, getattr(options, own.name)) for own in options_of(options).values()]
    return [
        refusal(name_of(own), own.metadata["rule"], value)
        for own, value in values
        if not own.metadata["rule"].allows(value)
    ]
