"""Limits of the policy: calls and rows per second, concurrent calls, and the priority of calls."""

from collections.abc import Callable
from importlib.util import find_spec
from time import monotonic

import pytest

from headrace_server.security.account import Account, Limits, LocalAccount
from tests.support.running import eventually

Make = Callable[..., Account]


def _native(limits: Limits) -> Account:
    import headrace_native

    return headrace_native.Account(limits.calls_per_second, limits.rows_per_second, limits.concurrent_calls)


@pytest.fixture(params=["python", *(["native"] if find_spec("headrace_native") else [])])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes an account, in Python and in Rust in turn."""
    return LocalAccount if request.param == "python" else _native


def test_calls_per_second(make: Make) -> None:
    account = make(Limits(calls_per_second=5))

    admitted, began = 0, monotonic()
    while (wait := account.admit()) is None:
        admitted += 1
    assert 5 <= admitted <= 5 + 5 * (monotonic() - began)
    assert 0 < wait <= 0.2
    eventually(lambda: account.admit() is None)


def test_rows_may_exceed_the_limit_once_and_then_wait(make: Make) -> None:
    account = make(Limits(rows_per_second=1000))

    assert account.admit() is None
    account.charge(101_000)
    wait = account.admit()
    assert wait is not None
    assert 50 < wait <= 100.001
    account.charge(-99_900)
    eventually(lambda: account.admit() is None)


def test_concurrent_calls(make: Make) -> None:
    account = make(Limits(concurrent_calls=2))

    assert [account.admit() for _ in range(3)] == [None, None, 0.1]
    account.release()
    assert account.admit() is None


def test_less_than_one_per_second(make: Make) -> None:
    account = make(Limits(calls_per_second=0.01))

    assert account.admit() is None
    wait = account.admit()
    assert wait is not None
    assert 50 < wait <= 100


def test_rows_that_are_not_run_are_given_back(make: Make) -> None:
    account = make(Limits(rows_per_second=1))

    for _ in range(3):
        assert account.admit() is None
        account.charge(1000)
        account.charge(-1000)
