"""ModelStatistics, from the same counts as Prometheus's series."""

from headrace_protos.inference import grpc_service_pb2 as messages
from headrace_server.metrics.inferences import Computing, Inferences, Spent
from headrace_server.models.servable import Servable

MILLISECONDS = 1e3


def statistics(servable: Servable) -> messages.ModelStatistics:
    """The counts of one version since it was loaded."""
    done = servable.inferences()
    message = messages.ModelStatistics(
        name=servable.name,
        version=str(servable.version),
        last_inference=round(done.last * MILLISECONDS),
        inference_count=done.rows,
        execution_count=done.runs,
        inference_stats=_inference_stats(done),
    )
    for rows, computing in sorted(done.by_rows.items()):
        message.batch_stats.add(
            batch_size=rows,
            compute_input=_duration(computing.inputs),
            compute_infer=_duration(computing.model),
            compute_output=_duration(computing.outputs),
        )
    return message


def _inference_stats(done: Inferences) -> messages.InferStatistics:
    computing: Computing = done.computing
    return messages.InferStatistics(
        success=_duration(done.success),
        fail=_duration(done.fail),
        queue=_duration(done.queue),
        compute_input=_duration(computing.inputs),
        compute_infer=_duration(computing.model),
        compute_output=_duration(computing.outputs),
        cache_hit=_duration(Spent()),
        cache_miss=_duration(Spent()),
    )


def _duration(spent: Spent) -> messages.StatisticDuration:
    return messages.StatisticDuration(count=spent.count, ns=max(0, spent.nanoseconds))
