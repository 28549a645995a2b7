"""Varints and payloads, as protobuf encodes them."""

import pytest
from google.protobuf import wrappers_pb2
from hypothesis import given
from hypothesis import strategies as st

from headrace_protos import TensorProto
from headrace_protos.wire import find_payload, opening, read_varint, varint


@given(st.integers(0, 2**64 - 1))
def test_varints_are_encoded_as_by_protobuf(value: int) -> None:
    written = wrappers_pb2.UInt64Value(value=value).SerializeToString()
    assert varint(value) == (written[1:] or b"\0")
    assert read_varint(b"xx" + varint(value) + b"\xff", 2) == (value, 2 + len(varint(value)))


@pytest.mark.parametrize(
    ("data", "at", "longest"), [(b"", 0, 10), (b"\x80\x80", 0, 10), (b"\x80\x80\x01", 0, 2), (b"\1", 1, 9)]
)
def test_a_varint_that_does_not_end_is_an_error(data: bytes, at: int, longest: int) -> None:
    with pytest.raises(ValueError, match="does not end"):
        read_varint(data, at, longest)


def test_a_payload_is_found_behind_fields_of_every_kind() -> None:
    message = (
        varint(1 << 3) + b"\x96\x01"  # a varint
        + varint(2 << 3 | 1) + b"\xff\xff\xff\xff" + opening(4, 2) + b"no"  # 64 bits
        + varint(3 << 3 | 5) + opening(4, 2) + b"no"  # 32 bits
        + opening(5, 200) + b"\x2a" * 200  # bytes that look like field keys
        + opening(4, 3) + b"abc"
    )  # fmt: skip
    assert bytes(find_payload(message, 4) or b"") == b"abc"
    assert find_payload(message, 6) is None


def test_a_payload_behind_a_group_or_too_many_fields_is_not_searched_for() -> None:
    assert find_payload(varint(1 << 3 | 3) + varint(1 << 3 | 4) + opening(4, 1) + b"a", 4) is None
    assert find_payload((opening(3, 1) + b"b") * 32 + opening(4, 1) + b"a", 4) is None
    assert find_payload((opening(3, 1) + b"b") * 31 + opening(4, 1) + b"a", 4) is not None


def test_a_payload_is_what_protobuf_wrote() -> None:
    message = TensorProto(dtype="DT_DOUBLE", double_val=[1.0, 2.0], tensor_shape={"dim": [{"size": 2}]})
    found = find_payload(message.SerializeToString(), TensorProto.DOUBLE_VAL_FIELD_NUMBER)
    assert found is not None
    assert list(found.cast("d")) == [1.0, 2.0]
