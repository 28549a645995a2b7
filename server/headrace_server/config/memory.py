"""How much memory this process may have: the machine's, or less where its container has a limit."""

from pathlib import Path

from headrace_batching.control_groups import groups, lines

_ROOT = Path("/")
_LIMITS = ("memory.max", "memory.limit_in_bytes")  # of control groups of version 2, and of version 1


def available_memory(root: Path = _ROOT) -> int:
    """Bytes that this process may have: the least that the machine and its control groups allow.

    Args:
        root: Where `proc` and the control groups' file systems are.
    """
    limits = [int(text) for group in groups(root, "memory") for text in _limits_of(group) if text.isdigit()]
    return min([_machine(root), *limits])


def _limits_of(group: Path) -> list[str]:
    return [line for name in _LIMITS for line in lines(group / name)[:1]]  # "max" for none


def _machine(root: Path) -> int:
    """Bytes that the machine has; 4 GB where it does not say."""
    for line in lines(root / "proc/meminfo"):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) << 10
    return 4 << 30
