"""CPU quotas as the kernel, Docker and Kubernetes show them to a process, inside and outside a container."""

import os
from pathlib import Path

import pytest

from headrace_batching.cpus import affine_cpus, cpu_quota, schedulable_cpus

V2 = "0::{path}\n"
V1 = "12:memory:{path}\n5:cpu,cpuacct:{path}\n0::/\n"
V2_MOUNT = "31 24 0:27 {top} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = (
    "33 32 0:29 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "34 32 0:30 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
)


def machine(root: Path, groups: str, mounts: str, **files: str) -> Path:
    """Fake `proc` and `sys` folders. In the names of `files`, `__` stands for a slash, and `_` for a dot or itself."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts)
    for name, content in files.items():
        file = (
            root / "sys/fs/cgroup" / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cpu_cfs", "cpu.cfs")
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return root


def v2(root: Path, path: str = "/", top: str = "/", **files: str) -> float | None:
    return cpu_quota(machine(root, V2.format(path=path), V2_MOUNT.format(top=top), **files))


def v1(root: Path, path: str = "/", top: str = "/", **files: str) -> float | None:
    named = {f"cpu,cpuacct__{name}": content for name, content in files.items()}
    return cpu_quota(machine(root, V1.format(path=path), V1_MOUNT.format(top=top), **named))


class TestVersion2:
    @pytest.mark.parametrize(
        ("content", "quota"),
        [("150000 100000\n", 1.5), ("50000 100000\n", 0.5), ("max 100000\n", None), ("", None), ("nonsense\n", None)],
    )
    def test_in_a_container_with_its_own_cgroup_namespace(
        self, tmp_path: Path, content: str, quota: float | None
    ) -> None:
        assert v2(tmp_path, cpu_max=content) == quota

    def test_the_lowest_limit_of_the_group_and_its_parents(self, tmp_path: Path) -> None:
        """The limits of a pod and of a container in it, as Kubernetes nests them."""
        quota = v2(
            tmp_path,
            "/kubepods/pod1/c1",
            kubepods__cpu_max="800000 100000",
            kubepods__pod1__cpu_max="200000 100000",
            kubepods__pod1__c1__cpu_max="max 100000",
        )
        assert quota == 2

    def test_a_path_that_is_not_visible_inside(self, tmp_path: Path) -> None:
        assert v2(tmp_path, "/../../elsewhere", cpu_max="300000 100000") == 3


class TestVersion1:
    @pytest.mark.parametrize(
        ("quota_us", "period_us", "quota"),
        [("250000\n", "100000\n", 2.5), ("-1\n", "100000\n", None), ("100000\n", "0\n", None), ("50000\n", "", None)],
    )
    def test_in_docker_with_the_path_of_the_host(
        self, tmp_path: Path, quota_us: str, period_us: str, quota: float | None
    ) -> None:
        found = v1(tmp_path, "/docker/1", "/docker/1", cpu_cfs_quota_us=quota_us, cpu_cfs_period_us=period_us)
        assert found == quota

    def test_the_lowest_limit_of_the_group_and_its_parents(self, tmp_path: Path) -> None:
        quota = v1(
            tmp_path,
            "/a/b",
            a__cpu_cfs_quota_us="100000",
            a__cpu_cfs_period_us="50000",
            a__b__cpu_cfs_quota_us="400000",
            a__b__cpu_cfs_period_us="100000",
        )
        assert quota == 2

    def test_next_to_version_2_which_then_limits_no_cpus(self, tmp_path: Path) -> None:
        mounts = V1_MOUNT.format(top="/") + V2_MOUNT.format(top="/").replace("cgroup rw", "cgroup/unified rw")
        files = {"cpu,cpuacct__cpu_cfs_quota_us": "300000", "cpu,cpuacct__cpu_cfs_period_us": "100000"}
        assert cpu_quota(machine(tmp_path, V1.format(path="/"), mounts, **files)) == 3


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert schedulable_cpus(tmp_path) == affine_cpus()


@pytest.mark.parametrize(("quota", "cpus"), [("10000 100000", 1), ("100000 100000", 1), ("100001 100000", 2)])
def test_a_part_of_a_cpu_counts_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cpus: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    v2(tmp_path, cpu_max=quota)
    assert schedulable_cpus(tmp_path) == cpus


def test_never_more_than_the_cpu_affinity_allows(tmp_path: Path) -> None:
    v2(tmp_path, cpu_max="99900000 100000")
    assert schedulable_cpus(tmp_path) == affine_cpus()
