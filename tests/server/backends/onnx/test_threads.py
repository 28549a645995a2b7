"""Threads of ONNX models: the set number; otherwise none for small models, and fewer the more models there are."""

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx.loading import _runtime_version, load_onnx
from headrace_server.backends.onnx.threads import PER_CPU, Pools
from tests.support import models

TASKS = Path("/proc/self/task")

SPINNING_SECONDS = 0.1
"""Longer than ONNX Runtime's threads spin by default."""


def threads_of(act: Callable[[], object]) -> tuple[object, int]:
    """The result of a call, and the number of threads that it started and that still run."""
    before = len(os.listdir(TASKS))
    made = act()
    return made, len(os.listdir(TASKS)) - before


def cpu_seconds(thread: str) -> float:
    """The CPU time that a thread of this process has used."""
    return int((TASKS / thread / "schedstat").read_text().split()[0]) / 1e9


class TestPools:
    @pytest.mark.parametrize("cpus", [1, 2, 16, 96])
    def test_the_threads_of_any_number_of_models_are_bounded(self, cpus: int) -> None:
        pools = Pools(cpus)
        taken = [pools.take() for _ in range(3000)]

        assert sum(pool.threads - 1 for pool in taken) <= PER_CPU * cpus
        assert taken[0].threads == cpus
        assert taken[-1].threads == 1

    def test_pools_shrink_one_after_the_other(self) -> None:
        pools = Pools(16)
        sizes = [pools.take() for _ in range(40)]

        assert [pool.threads for pool in sizes] == sorted((pool.threads for pool in sizes), reverse=True)
        assert len({pool.threads for pool in sizes}) > 4

    def test_threads_of_unloaded_models_are_available_again(self) -> None:
        pools = Pools(4)
        taken = [pools.take() for _ in range(100)]
        assert pools.take().threads == 1

        taken.clear()
        gc.collect()
        assert pools.left == PER_CPU * 4
        assert pools.take().threads == 4


@pytest.mark.skipif(not TASKS.exists(), reason="the system does not list the threads of a process")
class TestSessions:
    def test_a_small_model_has_no_threads(self, tmp_path: Path) -> None:
        options = BackendOptions()
        file = models.linear(tmp_path)
        load_onnx(file, options)  # the first load starts ONNX Runtime's own threads
        backends, threads = threads_of(lambda: [load_onnx(file, options) for _ in range(20)])

        assert threads == 0
        del backends

    def test_a_model_has_the_configured_number_of_threads(self, tmp_path: Path) -> None:
        file = models.linear(tmp_path)
        _, threads = threads_of(lambda: load_onnx(file, BackendOptions(intra_op_threads=5)))

        assert threads == 4

    def test_large_models_share_the_threads(self, tmp_path: Path) -> None:
        options = BackendOptions()
        file = models.linear(tmp_path, columns=1 << 19)
        first = load_onnx(file, options)
        pools = options.shared.get(Pools, Pools)
        everything = pools.left + pools._cpus - 1
        backends, threads = threads_of(lambda: [load_onnx(file, options) for _ in range(40)])

        assert threads < everything
        assert pools.left >= 0
        first.close()
        del backends, first
        gc.collect()
        assert pools.left == everything

    @pytest.mark.skipif(_runtime_version() < (1, 32), reason="older versions always spin for tens of milliseconds")
    def test_threads_do_not_spin_while_the_model_is_loaded(self, tmp_path: Path) -> None:
        file = models.linear(tmp_path, columns=1 << 19)
        before = set(os.listdir(TASKS))
        backend = load_onnx(file, BackendOptions(intra_op_threads=3))
        pool = set(os.listdir(TASKS)) - before
        threading.Event().wait(SPINNING_SECONDS)

        assert len(pool) == 2
        assert max(map(cpu_seconds, pool)) < 0.01
        backend.close()

    def test_several_threads_compute_the_same_as_one(self, tmp_path: Path) -> None:
        file = models.linear(tmp_path, columns=1 << 19)
        x = np.random.default_rng(0).integers(0, 3, (2, 1 << 19)).astype(np.float32)
        one, several = (
            load_onnx(file, BackendOptions(intra_op_threads=threads)).run("serving_default", {"x": x}, ["y"])["y"]
            for threads in (1, 4)
        )

        assert one.tolist() == several.tolist()
