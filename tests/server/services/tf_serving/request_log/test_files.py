"""Records on their way to files: all arrive in order, no call waits for them, and a full disk does no harm."""

import errno
import logging
import os
import re
from io import BytesIO
from pathlib import Path
from threading import Thread

import pytest

from headrace_protos import Code
from headrace_server.metrics.catalogue import Metrics
from headrace_server.models.tfrecord import frame, read_records
from headrace_server.services.tf_serving.request_log.files import RecordFiles, RecordWriter
from tests.support.running import eventually

FULL_DISK = "/dev/full"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def counts(metrics: Metrics) -> dict[str, int]:
    """The number of logged calls of model `m` by status code."""
    lines = re.findall(r'request_log_count{model_name="m",status_code="(\w+)"} (\d+)', metrics.page().decode())
    return {code: int(count) for code, count in lines}


def contents(folder: Path) -> list[list[bytes]]:
    """The records of each file."""
    return [list(read_records(BytesIO(file.read_bytes()))) for file in sorted(folder.iterdir())]


def test_records_are_written_in_order_before_the_end(tmp_path: Path, metrics: Metrics) -> None:
    writer = RecordWriter(metrics)
    for number in range(100):
        writer.put(f"{tmp_path}/calls", "m", b"%d" % number)
    writer.stop()
    assert contents(tmp_path) == [[b"%d" % number for number in range(100)]]
    assert counts(metrics) == {"OK": 100}


def test_each_prefix_has_its_file(tmp_path: Path, metrics: Metrics) -> None:
    writer = RecordWriter(metrics)
    for prefix in ("a", "b"):
        writer.put(f"{tmp_path}/{prefix}", prefix, prefix.encode())
    writer.stop()
    assert contents(tmp_path) == [[b"a"], [b"b"]]


def test_records_that_do_not_fit_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, metrics: Metrics
) -> None:
    writer = RecordWriter(metrics, waiting_bytes=100)
    writer.put(f"{tmp_path}/calls", "m", b"x" * 101)
    writer.put(f"{tmp_path}/calls", "m", b"x" * 101)
    writer.put(f"{tmp_path}/calls", "m", b"y" * 100)
    writer.stop()
    assert contents(tmp_path) == [[b"y" * 100]]
    assert counts(metrics) == {"RESOURCE_EXHAUSTED": 2, "OK": 1}
    assert caplog.messages == ["calls are not logged: the disk is too slow"]


def test_written_records_make_room(tmp_path: Path, metrics: Metrics) -> None:
    writer = RecordWriter(metrics, waiting_bytes=100)

    def three_written() -> bool:
        writer.put(f"{tmp_path}/calls", "m", b"x" * 100)
        return counts(metrics).get("OK", 0) >= 3

    eventually(three_written)
    writer.stop()
    assert contents(tmp_path) == [[b"x" * 100] * counts(metrics)["OK"]]


def test_a_stopped_writer_drops_records(tmp_path: Path, metrics: Metrics) -> None:
    writer = RecordWriter(metrics)
    writer.stop()
    writer.put(f"{tmp_path}/calls", "m", b"late")
    assert counts(metrics) == {"RESOURCE_EXHAUSTED": 1}
    assert contents(tmp_path) == []


def test_a_full_file_is_followed_by_the_next(tmp_path: Path) -> None:
    files = RecordFiles(file_bytes=len(frame(b"one")) + 1)
    for record in (b"one", b"two", b"three", b"four"):
        assert files.append(f"{tmp_path}/calls", [record]) == Code.OK
    assert contents(tmp_path) == [[b"one", b"two"], [b"three"], [b"four"]]


def test_files_may_be_moved_away(tmp_path: Path) -> None:
    files = RecordFiles(file_bytes=100)
    files.append(f"{tmp_path}/calls", [b"first"])
    (file,) = tmp_path.iterdir()
    file.unlink()
    files.append(f"{tmp_path}/calls", [b"second"])
    assert contents(tmp_path) == [[b"second"]]


def test_only_the_owner_may_read_the_files(tmp_path: Path) -> None:
    RecordFiles(file_bytes=100).append(f"{tmp_path}/calls", [b"secret"])

    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_gets_no_empty_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_record: bytes) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("headrace_server.services.tf_serving.request_log.files.frame", full)
    files = RecordFiles(file_bytes=100)

    assert [files.append(f"{tmp_path}/calls", [b"lost"]) for _ in range(3)] == [Code.DATA_LOSS] * 3
    assert list(tmp_path.iterdir()) == []


def removed(tmp_path: Path) -> tuple[RecordFiles, str, Path]:
    """A log, its prefix, and the place of its only file, which has been removed."""
    files = RecordFiles(file_bytes=100)
    prefix = f"{tmp_path}/calls"
    files.append(prefix, [b"before"])
    (file,) = tmp_path.iterdir()
    file.unlink()
    return files, prefix, file


def test_a_write_error_is_counted_logged_once_and_ends_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files, prefix, file = removed(tmp_path)
    file.symlink_to(FULL_DISK)
    assert files.append(prefix, [b"lost"]) == Code.DATA_LOSS
    assert files.append(f"{tmp_path}/nowhere/calls", [b"lost"]) == Code.DATA_LOSS
    assert [(record.levelno, "No space left" in record.message) for record in caplog.records] == [(logging.ERROR, True)]
    assert files.append(prefix, [b"after"]) == Code.OK
    file.unlink()
    assert contents(tmp_path) == [[b"after"]]


def test_a_pipe_that_nobody_reads_is_an_error(tmp_path: Path) -> None:
    files, prefix, file = removed(tmp_path)
    os.mkfifo(file)
    assert files.append(prefix, [b"lost"]) == Code.DATA_LOSS
    assert files.append(prefix, [b"after"]) == Code.OK


def test_records_that_need_too_much_memory_do_not_end_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metrics: Metrics
) -> None:
    def framed(record: bytes) -> bytes:
        if record == b"large":
            raise MemoryError
        return frame(record)

    monkeypatch.setattr("headrace_server.services.tf_serving.request_log.files.frame", framed)
    writer = RecordWriter(metrics)
    writer.put(f"{tmp_path}/large", "m", b"large")
    eventually(lambda: counts(metrics) == {"DATA_LOSS": 1})
    writer.put(f"{tmp_path}/calls", "m", b"small")
    writer.stop()
    assert contents(tmp_path) == [[b"small"]]
    assert counts(metrics) == {"DATA_LOSS": 1, "OK": 1}


def test_the_log_begins_once_the_system_has_a_thread_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metrics: Metrics
) -> None:
    def refused(_thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    writer = RecordWriter(metrics)
    with monkeypatch.context() as scarce:
        scarce.setattr(Thread, "start", refused)
        with pytest.raises(RuntimeError):
            writer.put(f"{tmp_path}/calls", "m", b"lost")
    writer.put(f"{tmp_path}/calls", "m", b"written")
    writer.stop()
    assert contents(tmp_path) == [[b"written"]]


def test_a_writer_that_never_got_a_thread_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_thread: Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Thread, "start", refused)
    writer = RecordWriter(Metrics())
    with pytest.raises(RuntimeError):
        writer.put(f"{tmp_path}/calls", "m", b"lost")
    writer.stop()
