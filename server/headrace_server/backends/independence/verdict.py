"""The result of a trial: whether a signature's requests are batched, and why."""

from dataclasses import dataclass
from enum import StrEnum

from headrace_batching.padding import Padding

EXPORT_AGAIN = "export it with a batch axis: a first dimension of all inputs and outputs that may have any size"

RECORD_REQUESTS = "give the version warm-up requests, which the trial then uses"


class Finding(StrEnum):
    """Whether requests may share a batch, in one word for logs and metrics."""

    INDEPENDENT = "independent"
    """No row changed with another one in the trial: requests are batched."""
    BOUNDED = "bounded"
    """No row changed while all numbers were finite and within a bound: only such requests are batched."""
    DEPENDENT = "dependent"
    """A row's answer changes with the other rows: requests run one by one."""
    UNDECIDED = "undecided"
    """The trial found no inputs that prove anything: requests run one by one."""
    NO_BATCH_AXIS = "no_batch_axis"
    """The declared shapes have no axis along which requests could be joined: they run one by one."""
    ENABLED = "enabled"
    """The operator has set that requests are batched; nothing was tested."""
    DISABLED = "disabled"
    """The operator has set that requests run one by one; nothing was tested."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The findings about one signature.

    Attributes:
        finding: Whether requests may share a batch, in one word.
        reason: The reason for the verdict, as the end of a sentence; empty for rows that are independent.
        advice: Advice for the operator; empty if there is none.
        output: The alias of the output that led to the finding; empty if none did.
        change: The change of that output, as a fraction of its largest value; infinite if it became NaN or infinite,
            or changed its shape.
        runs: The number of runs in the trial.
        seconds: How long the trial took.
        padding: How inputs of different lengths share a batch; None if they do not.
        unpadded: The reason why inputs of different lengths do not share a batch, as the end of a sentence; empty if no
            length varies.
        bound: Requests share batches only if their floating-point numbers are all finite and at most this large; None
            means that all requests share batches.
    """

    finding: Finding
    reason: str = ""
    advice: str = ""
    output: str = ""
    change: float = 0.0
    runs: int = 0
    seconds: float = 0.0
    padding: Padding | None = None
    unpadded: str = ""
    bound: float | None = None

    @property
    def batched(self) -> bool:
        """Whether requests may share a batch; with a bound, only those within it."""
        return self.finding in (Finding.INDEPENDENT, Finding.BOUNDED, Finding.ENABLED)

    @property
    def effect(self) -> str:
        """One line that says what happens to requests, and why."""
        if not self.batched:
            return f"one by one: {self.reason}"
        if self.bound is not None:
            return f"batched if all numbers are finite and at most {self.bound:g}; otherwise one by one: {self.reason}"
        lengths = "; requests of different lengths are padded" if self.padding is not None else ""
        lengths = f"; requests of different lengths run separately: {self.unpadded}" if self.unpadded else lengths
        return f"batched{f': {self.reason}' if self.reason else ''}{lengths}"


class Decided(Exception):
    """Ends a trial: the rows are not independent, or this cannot be determined.

    Args:
        finding: `Finding.DEPENDENT` or `Finding.UNDECIDED`.
        reason: The reason for the verdict, as the end of a sentence.
        change: The output that led to the finding, and how much it changed.
        advice: Advice for the operator, if the model's description does not give any.
    """

    def __init__(
        self, finding: Finding, reason: str, change: tuple[str, float] = ("", 0.0), *, advice: str = ""
    ) -> None:
        super().__init__(reason)
        self.verdict = Verdict(finding, reason, advice, output=change[0], change=change[1])
