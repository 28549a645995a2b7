"""The metrics of calls, batches and versions: their names, and what they count."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from headrace_batching import BatchReport, DeadlineExceeded, QueueFull, TaskTooLarge
from headrace_server.metrics.catalogue import OTHER, Metrics
from headrace_server.metrics.names import LATENCY, QUEUING, SIZES, SIZES_SHOWN
from headrace_server.metrics.runs import RunColumns
from headrace_server.metrics.summary import BatchCounts
from headrace_server.metrics.versions import REPORTS, Now, Runs, ServableMetrics


def test_nothing_has_run() -> None:
    assert not BatchCounts()


def test_sizes_are_counted_in_powers_of_two() -> None:
    counts = BatchCounts()
    for rows in (0, 1, 2, 3, 4, 7, 8, 1000):
        counts.add(RunColumns.of([report(tasks=2, rows=rows)]))

    assert counts
    assert str(counts) == (
        "16 requests, 1025 rows in 8 batches, mean 128.1 rows (0: 1, 1: 1, 2-3: 2, 4-7: 2, 8-15: 1, 512-1023: 1)"
    )


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics()
    made.configure(["m"])
    return made


def values(metrics: Metrics, name: str) -> dict[str, float]:
    """All lines of one metric except buckets: the labels and the number."""
    lines = (line.rpartition(" ") for line in metrics.page().decode().splitlines())
    return {series.removeprefix(name): float(number) for series, _, number in lines if series.startswith(f"{name}{{")}


class TestGrpcMethod:
    def test_a_call_is_counted_under_all_its_names(self, metrics: Metrics) -> None:
        predict = metrics.grpc_method("tensorflow.serving.PredictionService", "Predict")
        predict("m", "OK", 0.002)
        predict("m", "OK", 0.004)
        predict("m", "NOT_FOUND", 0.001)
        ours = '{method="tensorflow.serving.PredictionService/Predict",model_name="m",code='

        assert values(metrics, ":tensorflow:serving:request_count") == {
            '{model_name="m",status="OK"}': 2,
            '{model_name="m",status="NOT_FOUND"}': 1,
        }
        assert values(metrics, ":tensorflow:serving:request_latency_sum") == {
            '{model_name="m",API="Predict",entrypoint="GRPC"}': 6000
        }
        assert values(metrics, ":headrace:grpc_calls") == {f'{ours}"OK"}}': 2, f'{ours}"NOT_FOUND"}}': 1}
        assert values(metrics, ":headrace:grpc_latency_sum") == {f'{ours}"OK"}}': 6000, f'{ours}"NOT_FOUND"}}': 1000}

    def test_two_methods_add_up(self, metrics: Metrics) -> None:
        for method in ("Predict", "Classify", "Regress"):
            metrics.grpc_method("tensorflow.serving.PredictionService", method)("m", "OK", 0.001)

        assert values(metrics, ":tensorflow:serving:request_count") == {'{model_name="m",status="OK"}': 3}
        assert len(values(metrics, ":tensorflow:serving:request_latency_count")) == 3

    @pytest.mark.parametrize("method", ["MultiInference", "GetModelMetadata", "GetModelStatus"])
    def test_tf_serving_does_not_count_the_others(self, metrics: Metrics, method: str) -> None:
        metrics.grpc_method("s", method)("m", "OK", 0.001)

        assert b":tensorflow:" not in metrics.page()
        assert list(values(metrics, ":headrace:grpc_calls").values()) == [1]

    def test_callers_who_invent_models_do_not_fill_memory(self, metrics: Metrics) -> None:
        predict = metrics.grpc_method("tensorflow.serving.PredictionService", "Predict")
        for number in range(2000):
            predict(f"m{number}", "NOT_FOUND", 0.001)
            metrics.rest_call(f"m{number}", "predict", "NOT_FOUND", 0.001)

        assert len(predict._latencies) == 0
        assert values(metrics, ":tensorflow:serving:request_count") == {
            f'{{model_name="{OTHER}",status="NOT_FOUND"}}': 4000
        }
        assert len(values(metrics, ":headrace:grpc_calls")) == 1

    def test_every_configured_model_has_its_own_name(self, metrics: Metrics) -> None:
        predict = metrics.grpc_method("tensorflow.serving.PredictionService", "Predict")
        names = [f"m{number}" for number in range(1500)]
        for name in names:
            predict(name, "NOT_FOUND", 0.001)
        metrics.configure(names)
        for name in names:
            predict(name, "OK", 0.001)

        calls = values(metrics, ":headrace:grpc_calls")
        assert [calls[labels] for labels in calls if '"OK"' in labels] == [1] * 1500
        assert len(calls) == 1501


class TestConfigured:
    def call(self, metrics: Metrics, model: str) -> None:
        metrics.grpc_method("tensorflow.serving.PredictionService", "Predict")(model, "OK", 0.001)
        metrics.rest_call(model, "predict", "OK", 0.001)

    def test_a_model_that_is_no_longer_configured_is_dropped(self, metrics: Metrics) -> None:
        predict = metrics.grpc_method("tensorflow.serving.PredictionService", "Predict")
        predict("m", "OK", 0.001)
        metrics.configure(["other"])
        predict("m", "OK", 0.001)
        predict("other", "OK", 0.001)

        assert values(metrics, ":tensorflow:serving:request_count") == {
            f'{{model_name="{OTHER}",status="OK"}}': 1,
            '{model_name="other",status="OK"}': 1,
        }

    def test_a_model_that_is_still_loaded_keeps_its_name_until_it_is_unloaded(self, metrics: Metrics) -> None:
        servable = metrics.servable("m", 1)
        metrics.configure([])
        self.call(metrics, "m")
        before = metrics.page()
        servable.close()

        assert b'"m"' in before
        assert b'"m"' not in metrics.page()

    def test_a_model_that_comes_back_starts_at_zero(self, metrics: Metrics) -> None:
        predict = metrics.grpc_method("tensorflow.serving.PredictionService", "Predict")
        for models in (["m"], [], ["m"]):
            metrics.configure(models)
            predict("m", "OK", 0.001)

        assert values(metrics, ":tensorflow:serving:request_count")['{model_name="m",status="OK"}'] == 1


def test_a_call_over_rest(metrics: Metrics) -> None:
    metrics.rest_call("m", "predict", "OK", 0.002)
    metrics.rest_call("m", "predict", "INVALID_ARGUMENT", 0.002)
    metrics.rest_call("", "", "OK", 0.001)

    assert values(metrics, ":tensorflow:serving:request_count") == {
        '{model_name="m",status="OK"}': 1,
        '{model_name="m",status="INVALID_ARGUMENT"}': 1,
        '{model_name="",status="OK"}': 1,
    }
    assert values(metrics, ":tensorflow:serving:request_latency_sum") == {
        '{model_name="m",API="predict",entrypoint="REST"}': 2000,
        '{model_name="",API="",entrypoint="REST"}': 1000,
    }


def report(*, tasks: int = 3, rows: int = 6, padding: int = 2, failed: bool = False) -> BatchReport:
    return BatchReport(tasks, rows, padding, 0.0, 0.5, failed, arrivals=(-0.0001, -0.01, -0.02), sizes=(1, 2, 3))


def native_runs(count: int) -> list[bytes]:
    """The columns of this many runs without the interpreter, each of one row."""
    times, ones, arrivals = [[1.0, 1.0, 2.0, 2.0]] * count, [1] * count, [0.5] * count
    return [np.array(column).tobytes() for column in (times, ones, ones, arrivals, ones)]


def runs_of(servable: ServableMetrics, *, batched: bool = True) -> Runs:
    return servable.runs(BatchCounts(), batched=batched)


class TestServable:
    M1 = '{model_name="m",version="1"}'

    def test_a_batch(self, metrics: Metrics) -> None:
        runs_of(metrics.servable("m", 1))(report())

        assert values(metrics, ":headrace:batch_rows_sum") == {self.M1: 6}
        assert values(metrics, ":headrace:batch_latency_sum") == {self.M1: 500_000}
        assert values(metrics, ":headrace:padding_rows") == {self.M1: 2}
        assert values(metrics, ":headrace:queue_delay_sum") == {self.M1: 30_100}
        session = ":tensorflow:serving:batching_session:"
        assert values(metrics, f"{session}wrapped_run_count") == {"{}": 1}
        assert values(metrics, f"{session}input_batch_size_sum") == {"{}": 6}
        assert values(metrics, f"{session}input_batch_size_count") == {"{}": 3}
        assert values(metrics, f"{session}processed_batch_size_sum") == {"{}": 8}
        assert values(metrics, f"{session}padding_size_sum") == {'{execution_batch_size="8"}': 2}
        assert values(metrics, f"{session}queuing_latency_sum") == {'{thread_pool_name=""}': 30_100}
        assert values(metrics, f"{session}queuing_latency_count") == {'{thread_pool_name=""}': 3}

    def test_the_examples_of_a_call_for_several_inferences(self, metrics: Metrics) -> None:
        servable = metrics.servable("m", 1)
        for count in (1, 3):
            servable.examples(count)

        assert values(metrics, ":tensorflow:serving:request_example_count_total") == {'{model="m"}': 4}
        assert values(metrics, ":tensorflow:serving:request_example_counts_count") == {'{model="m"}': 2}
        assert values(metrics, ":tensorflow:serving:request_example_counts_sum") == {'{model="m"}': 4}

    def test_runs_of_many_threads_are_counted_once_each(self, metrics: Metrics) -> None:
        servable = metrics.servable("m", 1)
        counts = BatchCounts()
        schedulers = [servable.runs(counts, batched=batched) for batched in (False, True)]

        def run(batched: bool) -> None:
            schedulers[batched](report())
            servable.count_reports()

        runs = 5 * REPORTS
        with ThreadPoolExecutor(8) as threads:
            for number in range(runs):
                threads.submit(run, number % 2 == 0)

        assert values(metrics, ":headrace:batch_rows_sum") == {self.M1: 6 * runs}
        assert values(metrics, ":headrace:queue_delay_count") == {self.M1: 3 * runs}
        assert values(metrics, ":tensorflow:serving:batching_session:wrapped_run_count") == {"{}": runs // 2}
        assert str(counts).startswith(f"{3 * runs} requests, {6 * runs} rows in {runs} batches, mean 6.0 rows")

    def test_no_more_runs_are_kept_than_are_counted_together(self, metrics: Metrics) -> None:
        runs = runs_of(metrics.servable("m", 1))
        for _ in range(2 * REPORTS - 1):
            runs(report())

        assert len(runs._reports) == REPORTS - 1

    def test_runs_that_end_while_others_are_counted_are_left_for_the_next_count(self, metrics: Metrics) -> None:
        servable = metrics.servable("m", 1, Now(count_runs=lambda: runs.add_native(*native_runs(REPORTS))))
        runs = runs_of(servable)
        for counts in (1, 2):
            assert servable.inferences().runs == counts * REPORTS

    def test_runs_of_different_sizes_and_padding(self, metrics: Metrics) -> None:
        runs = runs_of(metrics.servable("m", 1))
        for rows, padding in ((6, 2), (6, 2), (7, 1), (4, 0)):
            runs(report(rows=rows, padding=padding))
        name = ":tensorflow:serving:batching_session:padding_size"

        assert values(metrics, f"{name}_sum") == {'{execution_batch_size="8"}': 5, '{execution_batch_size="4"}': 0}
        assert values(metrics, f"{name}_count") == {'{execution_batch_size="8"}': 3, '{execution_batch_size="4"}': 1}

    def test_callers_who_choose_the_sizes_of_batches_cannot_fill_the_page(self, metrics: Metrics) -> None:
        runs = runs_of(metrics.servable("m", 1))
        for rows in range(1, 1001):
            runs(report(rows=rows, padding=0))

        assert len(values(metrics, ":tensorflow:serving:batching_session:padding_size_count")) == SIZES_SHOWN

    def test_the_last_runs_of_a_version_are_counted_after_its_unload(self, metrics: Metrics) -> None:
        servable = metrics.servable("m", 1)
        runs_of(servable)(report())
        servable.close()

        assert metrics.read_counter("/tensorflow/serving/batching_session/wrapped_run_count") == 1

    def test_a_request_that_runs_alone_is_not_counted_as_a_batch_by_tf_serving(self, metrics: Metrics) -> None:
        runs_of(metrics.servable("m", 1), batched=False)(report())

        assert b"batching_session" not in metrics.page()
        assert values(metrics, ":headrace:batch_rows_count") == {self.M1: 1}

    def test_a_failed_batch_is_counted_only_as_failed(self, metrics: Metrics) -> None:
        runs_of(metrics.servable("m", 1))(report(failed=True))

        assert values(metrics, ":headrace:batch_failures") == {self.M1: 1}
        assert values(metrics, ":headrace:batch_rows_count") == {}

    def test_refusals_by_reason(self, metrics: Metrics) -> None:
        servable = metrics.servable("m", 1)
        for error in (QueueFull("x"), QueueFull("x"), TaskTooLarge(2, 1), DeadlineExceeded()):
            servable.refused(error)

        assert values(metrics, ":headrace:refusals") == {
            '{model_name="m",version="1",reason="queue_full"}': 2,
            '{model_name="m",version="1",reason="task_too_large"}': 1,
            '{model_name="m",version="1",reason="deadline_exceeded"}': 1,
        }

    def test_answers_by_method(self, metrics: Metrics) -> None:
        servable = metrics.servable("m", 1)
        servable.ran("Predict", 0.001)
        servable.ran("Classify", 0.002)

        assert values(metrics, ":tensorflow:serving:runtime_latency_sum") == {
            '{model_name="m",API="Predict",runtime="TF1"}': 1000,
            '{model_name="m",API="Classify",runtime="TF1"}': 2000,
        }

    def test_plain_answers_are_counted_when_the_counts_are_asked_for(self, metrics: Metrics) -> None:
        servable = metrics.servable("m", 1)
        answered = servable.answers(metrics.grpc_method("tensorflow.serving.PredictionService", "Predict"), "Predict")
        answered(([(3, 2), (5, 1)], 900.0))
        answered(([(3, 1)], 100.0))

        assert values(metrics, ":tensorflow:serving:runtime_latency_sum") == {
            '{model_name="m",API="Predict",runtime="TF1"}': 1000
        }
        assert values(metrics, ":tensorflow:serving:request_count") == {'{model_name="m",status="OK"}': 4}
        assert f'le="{LATENCY[3]:g}"}} 3' in metrics.page().decode()

    def test_new_routes_add_to_the_same_counts(self, metrics: Metrics) -> None:
        servable = metrics.servable("m", 1)
        observe = metrics.grpc_method("tensorflow.serving.PredictionService", "Predict")
        for _ in range(100):  # every route is created again whenever the versions change
            servable.answers(observe, "Predict")(([(0, 1)], 1.0))

        assert len(servable._tallied) == 1
        assert values(metrics, ":tensorflow:serving:request_count") == {'{model_name="m",status="OK"}': 100}

    def test_a_thread_that_finds_nothing_to_count_sees_the_counts_of_others(self, metrics: Metrics) -> None:
        servable = metrics.servable("m", 1)
        held = []

        class Slow:
            def several(self, *_: object) -> None:
                held.append(servable._counting.locked())

        servable.answers(Slow(), "Predict")(([(0, 1)], 1.0))
        servable.count_reports()

        assert held == [True]

    def test_a_version_that_was_never_called_has_no_series(self, metrics: Metrics) -> None:
        for number in range(3):
            metrics.servable(f"m{number}", 1)
        assert b'model_name="' not in metrics.page()

        runs_of(metrics.servable("called", 7))(report())
        assert b"m0" not in metrics.page()
        assert values(metrics, ":headrace:queue_rows") == {'{model_name="called",version="7"}': 0}

    def test_rows_that_wait(self, metrics: Metrics) -> None:
        waiting = iter([5, 7])
        metrics.servable("m", 1, Now(lambda: next(waiting)))

        assert values(metrics, ":headrace:queue_rows") == {self.M1: 5}
        assert values(metrics, ":headrace:queue_rows") == {self.M1: 7}

    def test_an_unloaded_version_does_not_affect_the_others(self, metrics: Metrics) -> None:
        first, second = metrics.servable("m", 1), metrics.servable("m", 2)
        for servable in (first, second):
            runs_of(servable)(report())
            servable.refused(QueueFull("x"))
        first.close()
        page = metrics.page().decode()

        assert 'version="1"' not in page
        assert {series for series in (":headrace:queue_rows", ":headrace:refusals") if f"{series}{{" in page} == (
            {":headrace:queue_rows", ":headrace:refusals"}
        )
        assert values(metrics, ":tensorflow:serving:batching_session:wrapped_run_count") == {"{}": 2}

    def test_late_counts_of_an_unloaded_version_are_ignored(self, metrics: Metrics) -> None:
        servable = metrics.servable("m", 1)
        servable.close()
        servable.refused(QueueFull("x"))

        assert 'version="1"' not in metrics.page().decode()


def test_the_buckets_are_tf_servings() -> None:
    assert (len(LATENCY), LATENCY[:3]) == (33, (10, 18, 10 * 1.8**2))
    assert (len(QUEUING), QUEUING[:2]) == (52, (100, 120))
    assert tuple(2**power for power in range(14)) == SIZES


class TestReadCounter:
    def test_is_the_cell_of_the_first_labels(self) -> None:
        metrics = Metrics()
        metrics.request_count.of("b", "OK").add(7)
        metrics.request_count.of("a", "OK").add(2)

        assert metrics.read_counter("/tensorflow/serving/request_count") == 2

    @pytest.mark.parametrize(
        "path", ["/tensorflow/serving/request_count", "/tensorflow/serving/request_latency", "/none/of/ours", ""]
    )
    def test_is_zero_for_unused_or_unknown_counters(self, path: str) -> None:
        metrics = Metrics()
        metrics.request_latency.of("m", "Predict", "GRPC").observe(5)

        assert metrics.read_counter(path) == 0
