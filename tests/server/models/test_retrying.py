"""A failed load is retried when the version's files have changed: late copies, and repairs of any kind."""

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace_batching import BatchThreads
from headrace_protos import Code
from headrace_server.errors import LoadError
from headrace_server.models.attempts import LONGEST_PAUSE
from headrace_server.models.files_state import files_state
from headrace_server.models.manager import Manager
from headrace_server.models.manager_options import ManagerOptions
from headrace_server.models.servable import Servable
from headrace_server.models.version_policy import State
from tests.support.running import eventually

from .backend import PATIENCE, Adder
from .still_clock import StillClock

WHOLE = b"all of it"


class Store:
    """One version in a folder, loadable once its `model` file is complete; its manager scans when the test says so."""

    def __init__(self, root: Path, threads: BatchThreads) -> None:
        self.folder = root / "m" / "1"
        self.folder.mkdir(parents=True)
        self.file = self.folder / "model"
        self.clock = StillClock()
        self.loads = 0
        self._threads = threads
        self.manager = Manager(self._load, ManagerOptions(num_load_threads=1), self.clock)
        self.manager.start()

    def aspire(self) -> None:
        self.manager.aspire("m", {1: self.folder})
        self.tried(1)

    def tried(self, loads: int) -> None:
        """Waits until this many loads have ended."""
        eventually(lambda: self.loads == loads and self.state in (State.END, State.AVAILABLE))

    def look(self, seconds: float = 1.0) -> None:
        self.clock.advance(seconds)
        self.manager.looked()

    @property
    def state(self) -> State:
        return self.manager.statuses("m")[0].state

    def _load(self, name: str, version: int, path: Path) -> Servable:
        try:
            whole = (path / "model").read_bytes() == WHOLE
        except OSError:
            whole = False
        self.loads += 1
        if not whole:
            raise LoadError(Code.DATA_LOSS, "it is not whole")
        return Servable(name, version, Adder(), self._threads, None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    threads = BatchThreads(1)
    threads.start()
    store = Store(tmp_path, threads)
    yield store
    store.manager.stop()
    threads.close()


def write(store: Store) -> None:
    store.file.write_bytes(WHOLE)


def rename(store: Store) -> None:
    other = store.folder.parent / "tmp"
    other.write_bytes(WHOLE)
    other.rename(store.file)


def link(store: Store) -> None:
    other = store.folder.parent / "tmp"
    other.write_bytes(WHOLE)
    store.file.unlink()
    store.file.symlink_to(other)


def write_the_target_of_a_link(store: Store) -> None:
    (store.folder.parent / "elsewhere").write_bytes(WHOLE)


def write_with_the_previous_time(store: Store) -> None:
    """Keeps the size and the modification time, as `cp -p` and `rsync -t` do."""
    before = store.file.stat()
    store.file.write_bytes(WHOLE)
    os.utime(store.file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("mend", [write, rename, link, write_the_target_of_a_link, write_with_the_previous_time])
def test_a_repaired_version_is_loaded(store: Store, mend: Callable[[Store], None]) -> None:
    if mend is write_the_target_of_a_link:
        (store.folder.parent / "elsewhere").write_bytes(b"half")
        store.file.symlink_to(store.folder.parent / "elsewhere")
    else:
        store.file.write_bytes(b"not of it")
    store.aspire()
    mend(store)
    store.look()
    store.look()
    store.tried(2)

    assert store.state is State.AVAILABLE


def test_a_change_of_model_toml_counts_too(store: Store) -> None:
    store.aspire()
    (store.folder.parent / "model.toml").write_text("[batching]\n")
    store.look()
    store.look()
    store.tried(2)


def test_without_a_change_nothing_is_tried_again(store: Store) -> None:
    store.aspire()
    for _ in range(10):
        store.look(LONGEST_PAUSE)

    assert (store.loads, store.state) == (1, State.END)


def test_files_that_change_between_scans_are_waited_for(store: Store) -> None:
    store.aspire()
    for size in range(1, 9):
        store.file.write_bytes(b"x" * size)
        store.look()
    assert store.loads == 1

    write(store)
    store.look()
    assert store.loads == 1
    store.look()
    store.tried(2)
    assert store.state is State.AVAILABLE


def test_changing_files_are_not_waited_for_forever(store: Store) -> None:
    """A program that writes a log into the folder must not delay the version forever."""
    store.aspire()
    write(store)
    for size in range(1, int(LONGEST_PAUSE)):
        (store.folder / "log").write_bytes(b"x" * size)
        store.look()
    assert store.loads == 1
    (store.folder / "log").write_bytes(b"the last")
    store.look()
    store.tried(2)


def test_the_pause_doubles(store: Store) -> None:
    store.aspire()
    for round_, pause in enumerate((1, 2, 4, 8), start=1):
        store.file.write_bytes(b"x" * round_)
        store.look(0)
        store.look(pause - 0.5)
        assert store.loads == round_
        store.look(0.5)
        store.tried(round_ + 1)


def test_the_same_error_is_logged_once(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.manager.initial_load_done()
    store.aspire()
    for round_ in range(1, 4):
        store.file.write_bytes(b"x" * round_)
        store.look(LONGEST_PAUSE)
        store.tried(round_ + 1)
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]

    assert errors == ["model m version 1 cannot be loaded (will be tried again when its files change): it is not whole"]


def test_a_log_that_writes_slowly_does_not_delay_what_needs_the_models(store: Store) -> None:
    seen: list[tuple[str, State]] = []
    another = ThreadPoolExecutor(1)

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((record.levelname, another.submit(lambda: store.state).result(PATIENCE)))

    log, handler = logging.getLogger("headrace_server.models.version_actions"), Slow(logging.ERROR)
    log.addHandler(handler)
    try:
        store.aspire()
    finally:
        log.removeHandler(handler)

    assert seen == [("ERROR", State.LOADING)]


def test_a_version_that_is_no_longer_aspired_is_not_retried(store: Store) -> None:
    store.aspire()
    store.manager.aspire("m", {})
    write(store)
    store.look()
    store.look()

    assert (store.loads, store.state) == (1, State.END)


class TestState:
    def test_folders_and_loops_of_links_have_a_state(self, tmp_path: Path) -> None:
        version = tmp_path / "1"
        (version / "variables").mkdir(parents=True)
        (version / "again").symlink_to(version)
        before = files_state(version)
        assert before == files_state(version)

        (version / "variables" / "data").touch()
        assert files_state(version) != before

    def test_files_that_python_writes_during_the_load_do_not_count(self, tmp_path: Path) -> None:
        version = tmp_path / "1"
        (version / "__pycache__").mkdir(parents=True)
        os.utime(version, (1, 1))
        before = files_state(version)
        (version / "__pycache__" / "x.pyc").touch()

        assert files_state(version) == before

    def test_the_state_of_a_version_that_has_gone(self, tmp_path: Path) -> None:
        before = files_state(tmp_path / "1")
        (tmp_path / "1").mkdir()

        assert files_state(tmp_path / "1") != before
