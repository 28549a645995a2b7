"""One loaded version under concurrent requests: what shares a batch, what runs alone, and who gets which answer."""

import asyncio
import logging
import time
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from headrace_batching import (
    DeadlineExceeded,
    Options,
    Priority,
    QueueFull,
    TaskTooLarge,
)
from headrace_protos import Code
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx.loading import load_onnx
from headrace_server.errors import ServingError, status_of
from headrace_server.models.servable import Servable
from tests.support import models
from tests.support.running import eventually

from .backend import HELD, PATIENCE, REFUSED, Adder, Narrow
from .scene import Requests, column, servable_of, serve, settled


class TestBatched:
    def test_requests_that_wait_together_run_together(self) -> None:
        backend = Adder(number=10)

        async def scene(requests: Requests) -> None:
            held = await requests.hold(backend)
            waiting = [requests.add(1), requests.add(2, 3), requests.add(4)]
            await settled()
            backend.go_on.set()

            assert [(await answer)["sum"].tolist() for answer in waiting] == [[[11]], [[12], [13]], [[14]]]
            assert [(await answer)["rows"].tolist() for answer in waiting] == [[4], [4, 4], [4]]
            assert (await held)["sum"].tolist() == [[87]]
            assert backend.runs == [[HELD], [1, 2, 3, 4]]

        serve(backend, scene)

    def test_a_request_without_rows_is_answered_from_a_run_of_one_row(self) -> None:
        backend = Adder()

        async def scene(requests: Requests) -> None:
            for _ in range(3):
                assert (await requests.add())["sum"].shape == (0, 1)

        serve(backend, scene)
        assert backend.runs == [[0]]

    def test_other_outputs_are_another_batch(self) -> None:
        backend = Adder(number=1)

        async def scene(requests: Requests) -> None:
            await requests.hold(backend)
            wanted: list[tuple[str, ...]] = [("sum",), ("rows",), ("sum",)]
            waiting = [requests.ask({"x": column(number)}, outputs) for number, outputs in enumerate(wanted)]
            await settled()
            backend.go_on.set()
            answers = [await answer for answer in waiting]

            assert [tuple(answer) for answer in answers] == wanted
            assert backend.runs[1:] == [[0, 2], [1]]

        serve(backend, scene)

    def test_sets_of_outputs_share_one_bound(self) -> None:
        backend = Adder()

        async def scene(requests: Requests) -> None:
            await requests.hold(backend)
            sets: list[tuple[str, ...]] = [("sum",), ("rows",), ("sum", "rows")]
            waiting = [requests.ask({"x": column(1)}, outputs) for outputs in sets[:2]]
            await settled()
            with pytest.raises(QueueFull):
                await requests.ask({"x": column(1)}, sets[2])
            backend.go_on.set()
            for answer in waiting:
                await answer

        serve(backend, scene, Options(max_batch_size=1, max_enqueued_batches=2))

    def test_a_request_that_is_too_large_is_refused(self) -> None:
        async def scene(requests: Requests) -> None:
            with pytest.raises(TaskTooLarge, match=r"^Task size 3 is larger than maximum input batch size 2$"):
                await requests.add(1, 2, 3)

        serve(Adder(), scene, Options(max_batch_size=2))

    def test_a_request_that_does_not_fit_the_queue_is_refused_at_once(self) -> None:
        backend = Adder()

        async def scene(requests: Requests) -> None:
            await requests.hold(backend)
            waiting = [requests.add(1, 2), requests.add(3, 4)]
            await settled()
            with pytest.raises(QueueFull):
                await requests.add(5)
            backend.go_on.set()
            assert [(await answer)["sum"].size for answer in waiting] == [2, 2]

        serve(backend, scene, Options(max_batch_size=2, max_enqueued_batches=2))

    def test_a_lower_priority_waits(self) -> None:
        backend = Adder()

        async def scene(requests: Requests) -> None:
            await requests.hold(backend)
            waiting = [requests.add(1, priority=Priority.LOW), requests.add(2)]
            await settled()
            backend.go_on.set()
            await asyncio.gather(*waiting)

            assert backend.runs[1:] == [[2], [1]]

        serve(backend, scene, Options(max_batch_size=1))

    def test_inputs_with_different_numbers_of_rows_run_alone(self, tmp_path: Path) -> None:
        """The model broadcasts an input of one row. TF Serving refuses such a request if batching is on."""

        async def scene(requests: Requests) -> None:
            a, b = np.ones((3, 2), np.float32), np.ones((1, 2), np.float32)
            answers = [requests.ask(inputs, ("sum",)) for inputs in ({"a": a, "b": b}, {"a": a, "b": a})]
            assert [(await answer)["sum"].tolist() for answer in answers] == [[[2, 2]] * 3] * 2

            with pytest.raises(ServingError, match="Dimension N of input: b Got: 3 Expected: 2"):
                await requests.ask({"a": a[:2], "b": a}, ("sum",))

        serve(load_onnx(models.two_inputs(tmp_path), BackendOptions()), scene)

    def test_more_rows_than_the_default_limit_run_alone(self) -> None:
        backend = Adder(number=1)

        async def scene(requests: Requests) -> None:
            rows = [1000.0 + number for number in range(1001)]
            assert (await requests.add(*rows))["sum"].shape == (1001, 1)
            assert backend.runs == [rows]

        serve(backend, scene, Options(larger_alone=True))


class TestOneByOne:
    @pytest.mark.parametrize("batching", [None, Options(max_batch_size=1)])
    def test_no_more_runs_than_the_backend_allows_and_other_threads_stay_free(self, batching: Options | None) -> None:
        backend = Narrow()

        async def scene(requests: Requests) -> None:
            held = await requests.hold(backend)
            waiting = [requests.add(number) for number in (1, 2)]
            await settled()
            queue: Any = requests.servable._schedulers._threads.queue
            await asyncio.to_thread(eventually, lambda: queue.idle == 2)
            assert backend.runs == [[HELD]]
            backend.go_on.set()
            await asyncio.gather(held, *waiting)

            assert backend.runs == [[HELD], [1], [2]]

        serve(backend, scene, batching, threads=3)

    @pytest.mark.parametrize(
        ("batched", "batching"), [(False, Options(max_batch_size=2, max_enqueued_batches=2)), (True, None)]
    )
    def test_each_request_runs_alone_with_any_number_of_rows(self, batched: bool, batching: Options | None) -> None:
        backend = Adder(batched=batched)

        async def scene(requests: Requests) -> None:
            await requests.hold(backend)
            waiting = [requests.add(1), requests.add(2, 3, 4)]
            await settled()
            backend.go_on.set()

            assert [(await answer)["rows"].tolist() for answer in waiting] == [[1], [3, 3, 3]]
            assert backend.runs == [[HELD], [1], [2, 3, 4]]

        serve(backend, scene, batching)

    def test_as_many_requests_may_wait_as_with_batching(self) -> None:
        backend = Adder(batched=False)

        async def scene(requests: Requests) -> None:
            await requests.hold(backend)
            waiting = [requests.add(number) for number in range(6)]
            await settled()
            with pytest.raises(QueueFull):
                await requests.add(6)
            backend.go_on.set()
            await asyncio.gather(*waiting)

        serve(backend, scene, Options(max_batch_size=3, max_enqueued_batches=2))

    def test_an_output_without_rows(self, tmp_path: Path) -> None:
        async def scene(requests: Requests) -> None:
            inputs = [{"x": np.full((rows, 2), rows, np.float32)} for rows in (1, 2, 3)]
            answers = await asyncio.gather(*(requests.ask(x, ("doubled", "total")) for x in inputs))

            assert [answer["total"].tolist() for answer in answers] == [2, 8, 18]
            assert [answer["doubled"].shape for answer in answers] == [(1, 2), (2, 2), (3, 2)]

        serve(load_onnx(models.scalar_output(tmp_path), BackendOptions()), scene)


class TestLeaving:
    def test_a_caller_who_leaves_is_skipped(self) -> None:
        backend = Adder()

        async def scene(requests: Requests) -> None:
            await requests.hold(backend)
            stays, leaves = requests.add(1), requests.add(2)
            await settled()
            leaves.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaves
            backend.go_on.set()
            await stays

            assert backend.runs == [[HELD], [1]]

        serve(backend, scene)

    def test_a_caller_may_leave_while_its_batch_runs(self) -> None:
        backend = Adder()

        async def scene(requests: Requests) -> None:
            held = await requests.hold(backend)
            held.cancel()
            backend.go_on.set()

            assert (await requests.add(1))["sum"].tolist() == [[1]]

        serve(backend, scene)

    @pytest.mark.parametrize(
        ("batching", "status"),
        [
            (Options(), (Code.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue")),
            (None, (Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")),  # TF Serving has no queue here
        ],
    )
    def test_a_deadline_that_has_passed(self, batching: Options | None, status: tuple[Code, str]) -> None:
        backend = Adder()

        async def scene(requests: Requests) -> None:
            late, early = requests.add(1, deadline=time.monotonic()), requests.add(2, deadline=time.monotonic() + 3600)
            with pytest.raises((DeadlineExceeded, ServingError)) as raised:
                await late
            await early

            assert status_of(raised.value) == status
            assert backend.runs == [[2]]

        serve(backend, scene, batching)


class TestNeighbours:
    def test_a_request_of_a_wrong_width_affects_no_other(self, tmp_path: Path) -> None:
        async def scene(requests: Requests) -> None:
            widths = [5 if number % 40 == 7 else 4 for number in range(200)]
            asked = [
                requests.ask({"x": np.full((1, width), number, np.float32)}, ("y",))
                for number, width in enumerate(widths)
            ]
            answers = await asyncio.gather(*asked, return_exceptions=True)

            good = {number: answer for number, answer in enumerate(answers) if not isinstance(answer, BaseException)}
            assert {number: answer["y"].tolist() for number, answer in good.items()} == {
                number: [[4 * number]] for number, width in enumerate(widths) if width == 4
            }
            bad = [answer for answer in answers if isinstance(answer, ServingError)]
            assert len(good) == 195
            ((code, text),) = {(error.code, error.message) for error in bad}
            wrong = "Got invalid dimensions for input: x for the following indices index: 1 Got: 5 Expected: 4"
            assert code == Code.INVALID_ARGUMENT
            assert text == wrong

        serve(load_onnx(models.linear(tmp_path), BackendOptions()), scene)

    def test_requests_of_different_widths_each_get_their_answer(self, tmp_path: Path) -> None:
        async def scene(requests: Requests) -> None:
            widths = [number % 7 + 1 if number % 5 == 0 else 4 for number in range(125)]
            asked = [
                requests.ask({"x": np.full((2, width), number, np.float32)}, ("y",))
                for number, width in enumerate(widths)
            ]
            answers = await asyncio.gather(*asked)

            assert [answer["y"].tolist() for answer in answers] == [
                [number * width] * 2 for number, width in enumerate(widths)
            ]

        serve(load_onnx(models.row_sums(tmp_path), BackendOptions()), scene)

    def test_a_value_that_the_model_refuses_fails_its_own_request_alone(self, tmp_path: Path) -> None:
        async def scene(requests: Requests) -> None:
            indices = [99 if number in (3, 4, 31) else number % 10 for number in range(40)]
            asked = [requests.ask({"index": np.array([index])}, ("y",)) for index in indices]
            answers = await asyncio.gather(*asked, return_exceptions=True)

            for index, answer in zip(indices, answers, strict=True):
                if isinstance(answer, BaseException):
                    assert index == 99
                    assert "idx=99 must be within the inclusive range [-10,9]" in str(answer)
                else:
                    assert answer["y"].tolist() == [10 * index]

        serve(load_onnx(models.lookup(tmp_path), BackendOptions()), scene)

    def test_a_batch_that_fails_is_run_again_in_halves(self) -> None:
        backend = Adder()

        async def scene(requests: Requests) -> None:
            await requests.hold(backend)
            waiting = [requests.add(row) for row in (1, 2, REFUSED, 3)]
            await settled()
            backend.go_on.set()
            answers = await asyncio.gather(*waiting, return_exceptions=True)

            assert [isinstance(answer, ServingError) for answer in answers] == [False, False, True, False]
            assert backend.runs[1:] == [[1, 2, REFUSED, 3], [1, 2], [REFUSED, 3], [REFUSED], [3]]

        serve(backend, scene)


class TestClosing:
    def test_closing_waits_for_leases_and_frees_the_model(self) -> None:
        backend = Adder()
        with servable_of(Adder(), None) as other:
            servable = Servable("m", 1, backend, other._schedulers._threads, None)
            assert servable.lease()
            assert servable.lease()
            closing = Thread(target=servable.close)
            closing.start()
            while not servable._leases.retired:
                closing.join(0.001)

            assert not servable.lease()
            servable.__exit__()
            assert closing.is_alive()
            assert not backend.closed
            servable.__exit__()
            closing.join(PATIENCE)
            assert backend.closed

    def test_the_log_has_the_numbers_of_requests_and_batches(self, caplog: pytest.LogCaptureFixture) -> None:
        async def scene(requests: Requests) -> None:
            await requests.add(1, 2)
            await asyncio.gather(requests.add(REFUSED), return_exceptions=True)

        with caplog.at_level(logging.INFO):
            serve(Adder(), scene)

        assert caplog.messages == [
            "served m:1 serving_default: 1 requests, 2 rows in 1 batches, mean 2.0 rows (2-3: 1)"
        ]

    def test_the_log_names_no_signature_without_requests(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO), servable_of(Adder(), None):
            pass

        assert caplog.messages == []


def test_signatures_are_the_backends() -> None:
    backend = Adder()
    with servable_of(backend, None) as servable:
        assert servable.signatures == backend.signatures
        assert servable.signature("") == ("serving_default", backend.signatures["serving_default"])
        with pytest.raises(ServingError, match=r'^Serving signature key "other" not found\.$'):
            servable.signature("other")
