"""JSON as RapidJSON reads it: what it accepts, and where and why it refuses the rest."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.services.json.careful import MAX_DEPTH, Json, _Reader, parse_carefully
from headrace_server.services.json.reader import MAX_CAREFUL_BYTES, parse, parse_quickly, parse_tolerantly

DEEP = 200_000

# RapidJSON 1.1.0's answers, with the flags that TF Serving sets.
REFUSED = {
    b" ": "The document is empty. at offset: 1",
    b"]": "The document is empty. at offset: 0",
    b"{": "Missing a name for object member. at offset: 1",
    b"{a:1}": "Missing a name for object member. at offset: 1",
    b'{"a":1,}': "Missing a name for object member. at offset: 7",
    b'{"a" 1}': "Missing a colon after a name of object member. at offset: 5",
    b'{"a":1 "b"': "Missing a comma or '}' after an object member. at offset: 7",
    b'{"a":01}': "Missing a comma or '}' after an object member. at offset: 6",
    b'{"a":[1 2]}': "Missing a comma or ']' after an array element. at offset: 8",
    b'{"a":[1,2': "Missing a comma or ']' after an array element. at offset: 9",
    b'{"a":[1,]}': "Invalid value. at offset: 8",
    b'{"a":}': "Invalid value. at offset: 5",
    b'{"a":nan}': "Invalid value. at offset: 6",
    b'{"a":nul}': "Invalid value. at offset: 8",
    b'{"a":Na}': "Invalid value. at offset: 7",
    b'{"a":Infinit}': "Invalid value. at offset: 12",
    b'{"a":-}': "Invalid value. at offset: 6",
    b'{"a":+1}': "Invalid value. at offset: 5",
    b'{"a":.5}': "Invalid value. at offset: 5",
    b'{"a":/*x*/1}': "Invalid value. at offset: 5",
    b"{\"a\":'x'}": "Invalid value. at offset: 5",
    b'{"a":1.}': "Miss fraction part in number. at offset: 7",
    b'{"a":1e}': "Miss exponent in number. at offset: 7",
    b'{"a":1e+}': "Miss exponent in number. at offset: 8",
    b'{"a":1e400}': "Number too big to be stored in double. at offset: 5",
    b'{"a":-' + b"1" * 400 + b"}": "Number too big to be stored in double. at offset: 5",
    b'{"a":"x}': "Missing a closing quotation mark in string. at offset: 8",
    b'{"a":"\x00"}': "Missing a closing quotation mark in string. at offset: 6",
    b'{"a":"\n"}': "Invalid escape character in string. at offset: 6",
    b'{"a":"\\x"}': "Invalid escape character in string. at offset: 6",
    b'{"a":"\\u12"}': "Incorrect hex digit after \\u escape in string. at offset: 6",
    b'{"a":"\\ud800"}': "The surrogate pair in string is invalid. at offset: 6",
    b'{"a":"\\ud800\\u0041"}': "The surrogate pair in string is invalid. at offset: 6",
    b'{"a":1\x00}': "Missing a comma or '}' after an object member. at offset: 6",
}

ACCEPTED: dict[bytes, Any] = {
    b'{"a":1} trailing': {"a": 1},
    b'{"a":1}{"a":2}': {"a": 1},
    b'\xef\xbb\xbf{"a":1}': {"a": 1},
    b'\n\t\r {"a" : 1 }': {"a": 1},
    b'{"a":1,"b":3,"a":2}': {"a": 1, "b": 3},
    b'{"a":{"b":1,"b":[2]}}': {"a": {"b": 1}},
    b'{"a:b":1,"a:b":2}': {"a:b": 1},
    b'{"a\\u003a":1,"b":1,"b":2}': {"a:": 1, "b": 1},
    b'{"a":[-Inf,Inf,Infinity,-Infinity]}': {"a": [-math.inf, math.inf, math.inf, -math.inf]},
    b'{"a":18446744073709551616}': {"a": 2.0**64},
    b'{"a":-9223372036854775809}': {"a": -(2.0**63)},
    b'{"a":[18446744073709551615,-9223372036854775808]}': {"a": [2**64 - 1, -(2**63)]},
    b'{"a":1e-400}': {"a": 0.0},
    b'{"a":"\xff"}': {"a": "\udcff"},
    b'{"a":"\\ud83d\\ude00\\/"}': {"a": "\U0001f600/"},
    b'{"a":"\\udc00"}': {"a": b"\xed\xb0\x80".decode(errors="surrogateescape")},
    b'{"a":"\\u0000"}': {"a": "\0"},
}


@pytest.mark.parametrize("body", REFUSED)
def test_refused(body: bytes) -> None:
    with pytest.raises(ServingError) as refused:
        parse(body)
    assert (refused.value.code, refused.value.message) == (Code.INVALID_ARGUMENT, f"JSON Parse error: {REFUSED[body]}")


@pytest.mark.parametrize("body", ACCEPTED)
def test_accepted(body: bytes) -> None:
    assert parse(body) == ACCEPTED[body]


def test_special_numbers() -> None:
    assert math.isnan(parse(b'{"a":NaN}')["a"])  # type: ignore[arg-type]


def test_whole_numbers_are_distinguished_from_others() -> None:
    document = parse(b'{"a":[1,-0,1.0,1e2]}')
    assert [type(number) for number in document["a"]] == [int, int, float, float]  # type: ignore[union-attr]


def test_nothing() -> None:
    with pytest.raises(ServingError, match=r"^JSON Parse error: The document is empty$"):
        parse(b"")


@pytest.mark.parametrize("body", [b"[1]", b"5", b'"a"', b"null"])
def test_no_object(body: bytes) -> None:
    with pytest.raises(ServingError) as refused:
        parse(body)
    assert refused.value.message == f"JSON Value: {body.decode()} Is not object"


DEEP_BODIES = {
    "lists": b'{"deep":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "lists that are not closed": b'{"deep":' + b"[" * DEEP,
    "objects": b'{"deep":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "no object around": b"[" * DEEP,
}


@pytest.mark.parametrize("body", DEEP_BODIES.values(), ids=DEEP_BODIES)
def test_deep_nesting_is_refused_at_once(body: bytes) -> None:
    tokens = 0

    class Counted(_Reader):
        def _opened_or_scalar(self) -> Json:
            nonlocal tokens
            tokens += 1
            return super()._opened_or_scalar()

    with pytest.raises(ServingError) as refused:
        Counted(body).document()
    assert refused.value.message.startswith(f"JSON Parse error: More than {MAX_DEPTH} lists and objects are nested. at")
    assert tokens <= MAX_DEPTH + 1
    assert outcome(body) == Code.INVALID_ARGUMENT


def test_the_deepest_allowed_nesting() -> None:
    depth = MAX_DEPTH - 2
    body = b'{"a":NaN,"deep":' + b"[" * depth + b"]" * depth + b"}"

    assert list(parse(body)) == list(parse_carefully(body)) == ["a", "deep"]  # type: ignore[arg-type]


LARGE = b"[0.5" + b",0.5" * (MAX_CAREFUL_BYTES // 4) + b"]"

LARGE_BODIES: dict[bytes, Any] = {
    b'{"a":1,"a":2,"x":' + LARGE + b"}": 1,
    b'{"a":NaN,"x":' + LARGE + b"}": math.nan,
    b'{"a":"\xff","x":' + LARGE + b"}": "\udcff",
    b'\xef\xbb\xbf {"a":-Infinity,"x":' + LARGE + b"} and more": -math.inf,
}


@pytest.mark.parametrize("body", LARGE_BODIES, ids=lambda body: body[:12])
def test_large_documents_are_never_read_token_by_token(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_Reader, "document")

    assert repr(parse(body)["a"]) == repr(LARGE_BODIES[body])


@pytest.mark.parametrize("wrong", [b"1e400", b'"\\ud800"', b"1]", b"", b"[" * DEEP])
def test_large_invalid_documents_are_refused_at_once(wrong: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_Reader, "document")

    assert outcome(b'{"x":' + LARGE + b',"a":' + wrong + b"}") == Code.INVALID_ARGUMENT


numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
objects = st.dictionaries(st.text(), values)


@settings(max_examples=60)
@given(objects)
def test_reads_what_others_write(document: dict[str, Json]) -> None:
    body = json.dumps(document, ensure_ascii=False).encode(errors="surrogatepass")
    assert parse(body) == parse_carefully(body)
    if body.isascii():
        assert parse(body) == document


@settings(max_examples=60)
@given(objects, st.data())
def test_both_ways_agree_on_a_damaged_body(document: dict[str, Json], data: st.DataObject) -> None:
    body = bytearray(json.dumps(document).encode())
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    for quick in (parse_quickly(bytes(body)), parse_tolerantly(bytes(body))):
        if quick is not None:
            assert repr(parse_carefully(bytes(body))) == repr(quick)


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_bytes_of_any_kind_end_in_an_answer(body: bytes) -> None:
    assert outcome(b'{"a":' + body) in (Code.OK, Code.INVALID_ARGUMENT)


def outcome(body: bytes) -> Code:
    try:
        parse(body)
    except ServingError as refused:
        return refused.code
    return Code.OK
