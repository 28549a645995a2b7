"""The results of a soak, and whether they meet the requirements."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .pauses import EVERY
from .tally import Tally
from .watch import Reading, growth

WARM = 0.5
"""The share of the run after which memory must no longer grow. Before that, the threads' heaps reach their size."""
POOLED = 1
"""The number of threads by which pools may have grown in the last quarter."""
GROWTH = 0.01
"""The share of its memory by which a server may grow after that time, according to a fitted line."""

_WHAT = """\
Written by `python -m scripts.soak --over {over} --seconds {seconds:.0f}{pause}`. For {seconds:.0f} s, these callers
call one server on the native transport at the same time:

- callers who follow the protocol, over gRPC and REST, and check that each answer is the right one for its
  request;
- callers who cancel, set short deadlines, send too much or leave in the middle of a message;
- slow readers;
- clients that send nineteen kinds of malformed bytes over plain sockets.

All callers pause every {every:.0f} s, so that memory is also read while the server holds nothing for them. The server
runs without the caches in which glibc's malloc keeps freed blocks for each thread, since these blocks count as in use.
Memory in use is the heap in use together with the resident memory outside C's heap."""

_TITLES = {"tcp": "", "tls": ", over TLS", "unix": ", over UNIX sockets"}

_COLUMNS = ("resident MB", "heap in use MB", "outside C's heap MB", "files", "threads")


@dataclass(frozen=True)
class Outcome:
    """All observations.

    Attributes:
        seconds: The length of the run.
        tally: How the calls ended.
        readings: The readings under load.
        before: The reading before the first call.
        after: The reading after the last call.
        drained: Whether no rows waited and no connection was left at the end.
        resting: The readings while all callers paused.
    """

    seconds: float
    tally: Tally
    readings: Sequence[Reading]
    before: Reading
    after: Reading
    drained: bool
    resting: Sequence[Reading] = ()

    @property
    def warm(self) -> list[Reading]:
        """The readings under load, from the time at which the server is warm."""
        return [each for each in self.readings if self.seconds * WARM <= each.seconds <= self.seconds]

    @property
    def growth(self) -> float:
        """The growth of the resident memory from then on, by the fitted line, relative to the median."""
        return growth([each.seconds for each in self.warm], [each.resident for each in self.warm])

    @property
    def growth_at_rest(self) -> float:
        """The growth of the memory in use while the server holds nothing for callers.

        The resident memory includes up to 64 MB of free memory at one time, and none at another.
        """
        rested = [each for each in self.resting if each.seconds >= self.seconds * WARM]
        return growth([each.seconds for each in rested], [each.used for each in rested])

    @property
    def threads_grew(self) -> bool:
        """Whether there were more threads in most of the last quarter than in most of the quarter before.

        Some threads exist only for a moment: those that copy and decompress large messages. Others belong to a small
        pool, which starts another thread when it first has enough work for one.
        """
        middle = len(self.warm) // 2
        first, second = ([each.threads for each in part] for part in (self.warm[:middle], self.warm[middle:]))
        return bool(first) and median(second) > max(self.before.threads, median(first)) + POOLED

    @property
    def checks(self) -> list[tuple[str, bool]]:
        """Each requirement, and whether it was met.

        A short run is not warm, so it says nothing about memory and threads.
        """
        long = self.seconds >= 60
        return [
            (
                f"every call that follows the protocol ended as expected ({self.tally.failed} did not)",
                not self.tally.failed,
            ),
            ("at the end, no row waited and no connection was open", self.drained),
            (
                "memory did not grow (by the fitted lines, the memory in use while all callers paused changed by "
                f"{self.growth_at_rest:+.1%}, and the resident memory under load by {self.growth:+.1%})",
                not long or self.growth_at_rest <= GROWTH,
            ),
            ("no thread was added", not long or not self.threads_grew),
        ]

    @property
    def good(self) -> bool:
        """Whether all requirements were met."""
        return all(met for _, met in self.checks)


def report(over: str, machine: Sequence[str], outcome: Outcome, panics: Sequence[str], pause: float = 0.0) -> str:
    """Returns the report as Markdown.

    Args:
        over: The transport of the calls, a key of `_TITLES`.
        machine: What the run and its machine were.
        outcome: All observations.
        panics: The lines of the server's log that report panics.
        pause: The minimum seconds between two calls of one caller.
    """
    checks = [*outcome.checks, (f"nothing panicked ({len(panics)} did)", not panics)]
    parts = [
        f"# Callers of all kinds at once{_TITLES[over]}",
        _WHAT.format(over=over, seconds=outcome.seconds, every=EVERY, pause=f" --pause {pause:g}" if pause else ""),
        " ".join(machine),
        "\n".join(f"- {'met' if met else '**missed**'}: {what}" for what, met in checks),
        _calls(outcome.tally),
        _held(outcome),
    ]
    if outcome.tally.failures or panics:
        parts.append("\n".join(f"- {each}" for each in [*outcome.tally.failures, *panics]))
    return "\n\n".join(parts) + "\n"


def _calls(tally: Tally) -> str:
    rows = [
        f"| {kind} | {', '.join(f'{how} {count:,}' for how, count in ends.most_common())} | {tally.slowest[kind]:.2f} |"
        for kind, ends in sorted(tally.ends.items())
    ]
    return "\n".join(["| callers | how their calls ended | slowest, s |", "|---|---|---:|", *rows])


def _held(outcome: Outcome) -> str:
    rows = [
        ("before", outcome.before),
        *((f"{each.seconds:.0f} s", each) for each in _tenths(outcome.readings)),
        *((f"{each.seconds:.0f} s, in a pause", each) for each in _tenths(outcome.resting)),
        ("after", outcome.after),
    ]
    lines = [
        f"| {when} | {' | '.join(map(_mega, (each.resident, each.heap, each.other)))} | {each.files} | {each.threads} |"
        for when, each in rows
    ]
    return "\n".join([f"| | {' | '.join(_COLUMNS)} |", f"|---|{'---:|' * len(_COLUMNS)}", *lines])


def _tenths(readings: Sequence[Reading]) -> list[Reading]:
    return [readings[len(readings) * step // 10] for step in range(1, 10)] if readings else []


def _mega(size: int) -> str:
    return f"{size / 1e6:.1f}" if size else ""
