"""TFRecord files: headrace reads what TensorFlow writes, and refuses what TensorFlow refuses, with its messages."""

import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_server.models.tfrecord import CorruptRecordError, _checksum, frame, read_records

RECORDS = [b"hello", b"", b"abc"]

BY_TENSORFLOW = bytes.fromhex(
    "0500000000000000eab2043e68656c6c6fbb1f1c19000000000000000029039807d8ea82a20300000000000000b099490e6162636e57f121"
)
"""The three records, as TensorFlow 2.21 writes them."""


def _file(records: list[bytes]) -> bytes:
    return b"".join(map(frame, records))


def _refusal(data: bytes) -> tuple[list[bytes], str]:
    """The records before the refused one, and the reason for the refusal."""
    records = []
    reader = read_records(BytesIO(data))
    with pytest.raises(CorruptRecordError) as caught:  # noqa: PT012 - the reader fails at its own time
        for record in reader:
            records.append(record)  # noqa: PERF402
    return records, str(caught.value)


def _flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def test_the_bytes_are_those_of_tensorflow() -> None:
    assert _file(RECORDS) == BY_TENSORFLOW
    assert list(read_records(BytesIO(BY_TENSORFLOW))) == RECORDS


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_written_records_are_read_back(records: list[bytes]) -> None:
    assert list(read_records(BytesIO(_file(records)))) == records


@given(st.integers(0, len(BY_TENSORFLOW) - 1))
def test_a_changed_byte_is_never_a_record(position: int) -> None:
    before, _ = _refusal(_flipped(BY_TENSORFLOW, position))
    assert before == RECORDS[: len(before)]


@pytest.mark.parametrize(
    ("data", "before"), [(b"", 0), (b"junk", 0), (BY_TENSORFLOW[:-8], 2), (BY_TENSORFLOW + b"\0" * 11, 3)]
)
def test_a_header_cut_short_is_the_end(data: bytes, before: int) -> None:
    assert list(read_records(BytesIO(data))) == RECORDS[:before]


# Each text is TensorFlow 2.21's message for the same bytes.
@pytest.mark.parametrize(
    ("data", "before", "text"),
    [
        pytest.param(
            b"some text, and a long one", 0, "corrupted record at 0 (Is this even a TFRecord file?)", id="text"
        ),
        pytest.param(
            _flipped(BY_TENSORFLOW, 2), 0, "corrupted record at 0 (Is this even a TFRecord file?)", id="length"
        ),
        pytest.param(_flipped(BY_TENSORFLOW, 13), 0, "corrupted record at 12", id="data"),
        pytest.param(_flipped(BY_TENSORFLOW, 22), 1, "corrupted record at 21", id="second-length"),
        pytest.param(
            BY_TENSORFLOW[:-1], 2, "truncated record at 37' failed with Read less bytes than requested", id="checksum"
        ),
        pytest.param(
            BY_TENSORFLOW[:12], 0, "truncated record at 0' failed with Read less bytes than requested", id="no-data"
        ),
    ],
)
def test_a_bad_record_is_refused_with_tensorflows_text(data: bytes, before: int, text: str) -> None:
    assert _refusal(data) == (RECORDS[:before], text)


def test_a_length_beyond_the_end_is_refused_before_any_memory_is_allocated() -> None:
    length = (1 << 62).to_bytes(8, "little")
    assert _refusal(length + _checksum(length) + b"data")[1].startswith("truncated record at 0")


def test_tensorflow_reads_what_is_written_here(tensorflow_python: Path, tmp_path: Path) -> None:
    file = tmp_path / "records"
    file.write_bytes(_file([b"x" * 100_000, b"", b"last"]))
    code = (
        "import sys\nfrom tensorflow.python.lib.io.tf_record import tf_record_iterator as read\n"
        "print([len(record) for record in read(sys.argv[1])])"
    )
    ended = subprocess.run([tensorflow_python, "-c", code, file], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[100000, 0, 4]"
