"""How requests whose inputs differ in length can share a batch. Keys of `[batching]` in `model.toml`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace_batching.option import option
from headrace_batching.padding import default_limits, limits_of_step


def _numbers(table: Any) -> bool:
    return all(isinstance(value, int | float) for value in table.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddingOptions:
    """Whether inputs are padded to the longest of a batch, with which values, and which lengths share a batch."""

    pad_lengths: bool = option(
        True,
        "let requests whose inputs differ in length share batches, if headrace finds a padding that leaves "
        "answers unchanged",
    )
    pad_values: Mapping[str, float] = option(
        dict,
        "the pad value of each input, by alias, used even if it changes answers; for other inputs, headrace looks for "
        "a value that does not",
        fits=_numbers,
        words="a table of numbers",
    )
    length_step: int | None = option(
        None,
        "lengths that round up to the same multiple of this number share a batch; if it is not given, lengths that "
        "round up to the same one of 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, ...",
        kind=int,
        least=1,
        nullable=True,
    )

    @property
    def limits(self) -> tuple[int, ...]:
        """Limits of length: inputs whose lengths lie between the same two limits share a batch."""
        return default_limits() if self.length_step is None else limits_of_step(self.length_step)
