"""When an answer's arrays return to the process that has lent them."""

import numpy as np

from headrace_server.processes.lending import Borrower, Lender
from headrace_server.processes.shared_memory import MappedMemory, Placed
from headrace_server.processes.slot import Message


def message() -> Message:
    """An answer with two arrays."""
    arrays = [(Placed(alias, 1, 0, 8, "<f4", (2,)), np.zeros(2, np.float32)) for alias in ("y", "z")]
    return Message("ran", (0, ()), arrays=arrays)


def test_an_answer_returns_when_nothing_refers_to_any_of_its_arrays() -> None:
    borrower = Borrower(MappedMemory())
    first, second = borrower.take(message(), 4), borrower.take(message(), 7)
    kept = second["z"][1:]
    assert borrower.give_back() == ()
    del first, second
    assert borrower.give_back() == (4,)
    del kept
    assert borrower.give_back() == (7,)
    assert borrower.give_back() == ()


def test_the_number_of_an_answer_that_was_returned_is_used_again() -> None:
    lender, arrays = Lender(), [np.zeros(2), np.zeros(2)]
    assert [lender.lend(arrays), lender.lend(arrays)] == [0, 1]
    lender.give_back((0,))
    assert [lender.lend(arrays), lender.lend(arrays)] == [0, 2]
