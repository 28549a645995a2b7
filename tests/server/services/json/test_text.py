"""Strings as RapidJSON's writer escapes them."""

import random
import time

import pytest

from headrace_server.services.json.text import quote

ESCAPED = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\u0000"}
OTHERS = ["a", "/", "\x7f", "é", "€", "😀", "\ud800", "\udcff", " "]


@pytest.mark.parametrize("length", [0, 10, 999, 1000, 1001, 5000])
def test_only_necessary_characters_are_escaped(length: int) -> None:
    chance = random.Random(length)
    characters = [chance.choice([*ESCAPED, *OTHERS]) for _ in range(length)]

    assert quote("".join(characters)) == f'"{"".join(ESCAPED.get(each, each) for each in characters)}"'


@pytest.mark.parametrize("code", range(0x20))
def test_every_control_character_is_escaped_in_long_texts_as_in_short_ones(code: int) -> None:
    character = chr(code)

    assert quote(character + "a" * 2000) == quote(character)[:-1] + "a" * 2000 + '"'


def test_megabytes_in_an_error_text_do_not_take_seconds() -> None:
    """`translate` alone took a second for 8 MB, during which no other call was answered."""
    text = '{\n    "b64": "' + "A" * 2_000_000
    began = time.thread_time()
    quote(text)
    ours = time.thread_time() - began
    text.translate({ord(character): escape for character, escape in ESCAPED.items()})
    translate = time.thread_time() - began - ours

    assert ours < translate / 3
