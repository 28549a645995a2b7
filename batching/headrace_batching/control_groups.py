"""Finds the files of the Linux control groups, version 1 or 2, that limit this process."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the groups that the process is in, each with its parents.

    Args:
        root: The folder that holds `proc` and the control groups' file systems.
        controller: The limited resource: `cpu` or `memory`.
    """
    paths = dict(_paths_of_groups(root, controller))
    for version, top, mount_point in _mounts(root, controller):
        if version not in paths:
            continue
        path = PurePosixPath(paths[version])
        # In a container, the process's own group is often mounted as the root, while its path is given from the host's
        # root.
        inner = path.relative_to(top) if path.is_relative_to(top) else PurePosixPath()
        group = root / mount_point.lstrip("/") / inner
        yield group
        for _ in inner.parts:
            group = group.parent
            yield group


def _paths_of_groups(root: Path, controller: str) -> Iterator[tuple[int, str]]:
    """For each hierarchy that may limit the resource, its version and the path of the process's group in it."""
    for line in lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            yield 2, path
        elif controller in controllers.split(","):
            yield 1, path


def _mounts(root: Path, controller: str) -> Iterator[tuple[int, str, str]]:
    """The mounted hierarchies: for each, the version, the path of its topmost group, and the mount point."""
    for line in lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        fields = before.split(" ")
        if kind == "cgroup2":
            yield 2, fields[3], fields[4]
        elif kind == "cgroup" and controller in options.rpartition(" ")[2].split(","):
            yield 1, fields[3], fields[4]


def lines(file: Path) -> list[str]:
    """The lines of a file; empty if it cannot be read."""
    try:
        return file.read_text().splitlines()
    except (OSError, ValueError):
        return []
