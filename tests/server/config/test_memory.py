"""How much memory a process may use, from the files of machines and containers with either version of cgroups."""

from pathlib import Path

import pytest

from headrace_server.config.memory import available_memory

MACHINE = "MemTotal:       16000000 kB\nMemFree: 1 kB\n"
TWO = "26 20 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n"
ONE = "31 20 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def root(tmp_path: Path, cgroup: str, mounts: str, **limits: str) -> Path:
    """The file system of a machine with 16 GB; each limit is named by its file below /sys/fs/cgroup."""
    for name, text in {"proc/meminfo": MACHINE, "proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name, text in limits.items():
        file = tmp_path / "sys/fs/cgroup" / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("cgroup", "mounts", "limits", "expected"),
    [
        ("", "", {}, 16_000_000 << 10),
        ("0::/\n", TWO, {"memory.max": "1000000\n"}, 1_000_000),
        ("0::/\n", TWO, {"memory.max": "max\n"}, 16_000_000 << 10),
        ("0::/a/b\n", TWO, {"a__memory.max": "5000\n", "a__b__memory.max": "max\n"}, 5000),
        ("4:memory:/\n", ONE, {"memory__memory.limit_in_bytes": "3000\n"}, 3000),
        ("4:memory:/\n", ONE, {"memory__memory.limit_in_bytes": "9223372036854771712\n"}, 16_000_000 << 10),
    ],
)
def test_the_smallest_limit_of_machine_and_groups(
    tmp_path: Path, cgroup: str, mounts: str, limits: dict[str, str], expected: int
) -> None:
    assert available_memory(root(tmp_path, cgroup, mounts, **limits)) == expected


def test_this_machine_has_memory() -> None:
    assert available_memory() > 64 << 20
