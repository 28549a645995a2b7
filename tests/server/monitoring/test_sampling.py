"""Which requests are traced."""

import pytest

from headrace_server.monitoring.sampling import Parent, Sampler

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


def parent(flags: str = "01") -> Parent | None:
    return Parent.of(f"00-{TRACE}-{SPAN}-{flags}")


def test_a_traceparent() -> None:
    assert parent() == Parent(bytes.fromhex(TRACE), bytes.fromhex(SPAN), sampled=True)
    assert parent("00") == Parent(bytes.fromhex(TRACE), bytes.fromhex(SPAN), sampled=False)
    assert Parent.of(f"01-{TRACE}-{SPAN}-03-what-a-later-version-adds") is not None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
    ],
)
def test_invalid_traceparents(header: str) -> None:
    assert Parent.of(header) is None


def sampler(ratio: float, rate: float = 1e9, chance: float = 0.5) -> Sampler:
    return Sampler(ratio, rate, lambda: chance, lambda: 0.0)


def test_callers_with_a_trace_decide() -> None:
    assert sampler(0).takes(parent("01"))
    assert not sampler(1).takes(parent("00"))
    assert not sampler(0.5).takes(None)
    assert sampler(0.51).takes(None)


def test_a_limited_number_per_second() -> None:
    now = [0.0]
    own = Sampler(1, 10, lambda: 0.0, lambda: now[0])
    assert sum(own.takes(None) for _ in range(100)) == 10
    now[0] = 0.5
    assert sum(own.takes(parent()) for _ in range(100)) == 5
    now[0] = 100
    assert sum(own.takes(None) for _ in range(100)) == 10


def test_less_than_one_per_second() -> None:
    now = [0.0]
    own = Sampler(1, 0.5, lambda: 0.0, lambda: now[0])
    taken = 0
    for second in range(100):
        now[0] = float(second)
        taken += own.takes(None)
    assert taken == pytest.approx(50, abs=1)
