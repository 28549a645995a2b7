"""How much memory this process may use: the machine's, or less if its container has a limit."""

from pathlib import Path

from headrace_batching.control_groups import groups, lines

_ROOT = Path("/")
_LIMITS = ("memory.max", "memory.limit_in_bytes")  # the files of control groups, version 2 and version 1


def available_memory(root: Path = _ROOT) -> int:
    """The number of bytes that this process may use: the least of the machine's memory and the control groups' limits.

    Args:
        root: The folder that holds `proc` and the control groups' file systems.
    """
    limits = [int(text) for group in groups(root, "memory") for text in _limits_of(group) if text.isdigit()]
    return min([_machine(root), *limits])


def _limits_of(group: Path) -> list[str]:
    return [line for name in _LIMITS for line in lines(group / name)[:1]]  # "max" means no limit


def _machine(root: Path) -> int:
    """The size of the machine's memory in bytes; 4 GB if that is unknown."""
    for line in lines(root / "proc/meminfo"):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) << 10
    return 4 << 30
