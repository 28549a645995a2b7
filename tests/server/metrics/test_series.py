"""Counters, gauges and histograms, and their text format."""

import errno
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace_server.metrics.counting import growing, tally
from headrace_server.metrics.exposition import page
from headrace_server.metrics.series import Gauges, Labels, counters, histograms


def test_a_counter() -> None:
    calls = counters("/tensorflow/serving/request_count", "model_name", "status")
    calls.of("m", "OK").add()
    calls.of("m", "OK").add(2)
    calls.of("m", "NOT_FOUND").add()

    assert page([calls]).decode() == (
        "# TYPE :tensorflow:serving:request_count counter\n"
        ':tensorflow:serving:request_count{model_name="m",status="NOT_FOUND"} 1\n'
        ':tensorflow:serving:request_count{model_name="m",status="OK"} 3\n'
    )


def test_a_series_without_labels_keeps_its_braces() -> None:
    runs = counters("/a/b.c-d_e9")
    runs.of().add()

    assert page([runs]).decode() == "# TYPE :a:b:c:d_e9 counter\n:a:b:c:d_e9{} 1\n"


def test_a_series_without_a_value_is_not_shown() -> None:
    assert page([counters("/a"), histograms("/b", (1,)), Gauges("/c", (), list)]) == b""


def test_a_histogram_adds_up() -> None:
    sizes = histograms("/sizes", (1, 2, 4), "model")
    for size in (0, 1, 1.5, 2, 4, 5, 100):
        sizes.of("m").observe(size)

    assert page([sizes]).decode() == (
        "# TYPE :sizes histogram\n"
        ':sizes_bucket{model="m",le="1"} 2\n'
        ':sizes_bucket{model="m",le="2"} 4\n'
        ':sizes_bucket{model="m",le="4"} 5\n'
        ':sizes_bucket{model="m",le="+Inf"} 7\n'
        ':sizes_sum{model="m"} 113.5\n'
        ':sizes_count{model="m"} 7\n'
    )


def test_many_values_at_once_are_as_many_one_by_one() -> None:
    values = [0.5, 1, 3, 3, 9, 27]
    bounds = growing(1, 3, 3)
    one_by_one, at_once = (histograms("/h", bounds) for _ in range(2))
    for value in values:
        one_by_one.of().observe(value)
    at_once.of().add(tally(values, bounds), sum(values))

    assert page([one_by_one]) == page([at_once])
    assert tally([], bounds) == []


def test_bounds_read_as_in_tf_serving() -> None:
    latency = histograms("/latency", growing(10, 1.8, 33))
    latency.of().observe(20)
    lines = page([latency]).decode().splitlines()

    assert [line.partition('le="')[2].partition('"')[0] for line in lines[1:34]][:6] == (
        ["10", "18", "32.4", "58.32", "104.976", "188.957"]
    )
    assert lines[33].startswith(':latency_bucket{le="1.47476e+09"}')
    assert lines[34:] == [':latency_bucket{le="+Inf"} 1', ":latency_sum{} 20", ":latency_count{} 1"]


@pytest.mark.parametrize(
    ("value", "shown"), [('a"b', r"a\"b"), ("a\\b", r"a\\b"), ("a\nb 1", r"a\nb 1"), ("ü{},=", "ü{},=")]
)
def test_a_label_cannot_contain_a_line_break(value: str, shown: str) -> None:
    calls = counters("/calls", "model_name")
    calls.of(value).add()

    assert page([calls]).decode() == f'# TYPE :calls counter\n:calls{{model_name="{shown}"}} 1\n'


def test_a_gauge_is_read_for_every_page() -> None:
    waiting: dict[Labels, int] = {}
    rows = Gauges("/rows", ("model", "version"), waiting.items)
    assert page([rows]) == b""
    waiting[("m", "1")] = 7

    assert page([rows]).decode() == '# TYPE :rows gauge\n:rows{model="m",version="1"} 7\n'


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.ENOMEM])
def test_a_gauge_that_cannot_be_read_does_not_end_the_page(number: int) -> None:
    def refused() -> Iterator[tuple[Labels, float]]:
        yield (), 1
        raise OSError(number, os.strerror(number))

    gauges = [Gauges("/a", (), refused), Gauges("/b", (), lambda: [((), 2)])]
    assert page(gauges) == b"# TYPE :b gauge\n:b{} 2\n"
    assert not gauges[0].read()


def test_names_are_sorted() -> None:
    first, last = counters("/a"), counters("/b")
    first.of().add()
    last.of().add()
    text = page([last, first, Gauges("/aa", (), lambda: [((), 1)])]).decode()

    assert [line.split()[2] for line in text.splitlines() if line[0] == "#"] == [":a", ":aa", ":b"]


def test_a_counter_follows_histograms() -> None:
    latency, calls = histograms("/latency", (1,), "method"), counters("/calls")
    calls.of().add(10)
    for method in ("a", "b", "a"):
        calls.of().follow(latency.of(method))
        latency.of(method).observe(1)

    assert b":calls{} 13\n" in page([calls])


def test_a_series_is_shared_by_two_families() -> None:
    ours, theirs = histograms("/ours", (1,), "method"), histograms("/theirs", (1,), "API")
    theirs.share(ours.of("Predict"), "P")
    ours.of("Predict").observe(1)

    assert b':theirs_count{API="P"} 1\n' in page([theirs])


def test_the_oldest_series_makes_room_for_a_new_one() -> None:
    sizes = counters("/sizes", "rows", limit=3)
    for rows in ("1", "2", "3", "1", "4"):
        sizes.of(rows).add()

    assert page([sizes]).decode().splitlines()[1:] == [f':sizes{{rows="{rows}"}} 1' for rows in "234"]


def test_series_are_kept_by_their_group() -> None:
    calls, runs = counters("/calls", "code", "model", group="model"), counters("/runs", "version")
    for model in ("a", "b", "c"):
        calls.of("OK", model).add()
        runs.of(model).add()
    for family in (calls, runs):
        family.keep({"a", "c"})

    assert re.findall(r"model=\"(.)\"", page([calls]).decode()) == ["a", "c"]
    assert len(page([runs]).splitlines()) == 4


def test_series_of_a_group_are_forgotten_by_their_labels() -> None:
    calls = counters("/calls", "model", "version", "code", group="model")
    runs = counters("/runs", "model", group="model")
    for version in ("1", "2"):
        for code in ("OK", "NOT_FOUND"):
            calls.of("m", version, code).add()
    runs.of("m").add()
    for family in (calls, runs):
        family.forget("m", {"version": "1", "model": "m"})

    assert page([calls]).count(b'version="2"') == 2
    assert page([calls]).count(b'version="1"') == 0
    assert b":runs" in page([runs])

    calls.of("other", "1", "OK").add()
    for family in (calls, runs):
        family.forget("m", {})
    assert page([calls]).decode().splitlines()[1:] == [':calls{model="other",version="1",code="OK"} 1']
    assert page([runs]) == b""


def test_a_dropped_series_starts_at_zero_again() -> None:
    calls = counters("/calls", "model", group="model")
    calls.of("m").add(5)
    calls.forget("m", {})
    calls.of("m").add()

    assert page([calls]).decode().splitlines()[1:] == [':calls{model="m"} 1']
    calls.keep(set())
    assert page([calls]) == b""


def test_no_count_is_lost_between_threads() -> None:
    calls, sizes = counters("/calls"), histograms("/sizes", (1,))

    def add() -> None:
        calls.of().add()
        sizes.of().observe(1)
        sizes.of().add([(0, 1), (1, 1)], 3)

    with ThreadPoolExecutor(8) as threads:
        for _ in range(4000):
            threads.submit(add)

    assert b":calls{} 4000\n" in page([calls])
    assert page([sizes]).endswith(b':sizes_bucket{le="+Inf"} 12000\n:sizes_sum{} 16000\n:sizes_count{} 12000\n')
