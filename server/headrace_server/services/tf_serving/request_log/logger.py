"""Logs a sample of the answered calls, as PredictionLogs."""

import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from headrace_protos import (
    LoggingConfig,
    LogMetadata,
    ModelConfig,
    PredictionLog,
    SamplingConfig,
)
from headrace_server.errors import invalid
from headrace_server.models.call import Call
from headrace_server.services.rpc import Method, Service
from headrace_server.services.tf_serving.request_log.files import RecordWriter
from headrace_server.services.tf_serving.request_log.messages import LOG_TYPES, answering_spec, asked_specs

COLLECTOR = "file"

MakeMessages = Callable[[], tuple[Message, Message]]
"""Creates the request and the response of a call that was answered."""


@dataclass(frozen=True, slots=True)
class RequestLog:
    """The share of one model's calls that is logged, and the destination.

    Attributes:
        prefix: The beginning of the log files' paths.
        rate: The share of calls, from 0 to 1.
        metadata: The metadata, which are the same for every call.
    """

    prefix: str
    rate: float
    metadata: LogMetadata


class RequestLogger:
    """Logs calls without ever delaying one: records for which the disk is too slow are dropped and counted.

    A call outside the sample costs one random number; a call in it costs its serialisation. TF Serving's own binary has
    no collector and refuses every `logging_config`; this one has the collector `file`.

    Args:
        writer: The writer, which its creator closes.
        tags: What TF Serving records as the tags of a SavedModel.
        chance: Returns a uniformly distributed random number from 0 to 1, excluding 1.
        clock: Returns the time in seconds since 1970.
        changed: Called when a configuration takes effect, with the names of the models for which logging has begun or
            ended.
    """

    def __init__(
        self,
        writer: RecordWriter,
        tags: Iterable[str] = (),
        *,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
        changed: Callable[[Collection[str]], None] = lambda _: None,
    ) -> None:
        self._writer = writer
        self._tags = tuple(tags)
        self._chance = chance
        self._clock = clock
        self._changed = changed
        self._logs: Mapping[str, RequestLog] = {}

    def prepare(self, models: Iterable[ModelConfig]) -> Callable[[], None]:
        """Checks the request logs in a configuration; returns a function that puts them into effect.

        Raises:
            ServingError: INVALID_ARGUMENT if a model names an unknown collector, or has an invalid value. TF Serving:
                server_request_logger.cc has the first text.
        """
        logs = {model.name: self._log(model) for model in models if model.HasField("logging_config")}
        return partial(self._use, logs)

    def logged(self, service: Service) -> Service:
        """The same service, with its answered calls logged."""
        return replace(service, methods=tuple(map(self._logged, service.methods)))

    def logs(self, name: str) -> bool:
        """Whether calls of a model may be logged."""
        return name in self._logs

    def record(self, request: Any, response: Any) -> None:
        """Logs an answered call, if its model's calls are logged and it is in the sample. Any thread."""
        self.record_made(asked_specs(request)[0].name, lambda: (request, response))

    def record_made(self, name: str, make: MakeMessages) -> None:
        """Like `record`, but creates the messages of the call only if they will be logged."""
        found = self._logs.get(name)
        if found is None or self._chance() >= found.rate:
            return
        try:
            self._writer.put(found.prefix, name, self._record(found, *make()))
        except Exception as error:  # the call has been answered, even if there is no memory or thread for its record
            self._writer.lose(name, error)

    def _use(self, logs: Mapping[str, RequestLog]) -> None:
        before, self._logs = self._logs, logs
        if changed := before.keys() ^ logs.keys():
            self._changed(changed)

    def _logged(self, method: Method) -> Method:
        answer = method.answer
        if method.request not in LOG_TYPES:
            return method

        async def answer_and_record(request: Any, call: Call) -> Message:
            response = await answer(request, call)
            if self._logs:
                self.record(request, response)
            return response

        return replace(method, answer=answer_and_record)

    def _record(self, found: RequestLog, request: Message, response: Message) -> bytes:
        record = PredictionLog(log_metadata=found.metadata)
        record.log_metadata.model_spec.CopyFrom(answering_spec(response))
        record.log_metadata.timestamp_secs = int(self._clock())
        pair = getattr(record, LOG_TYPES[type(request)])
        pair.request.CopyFrom(request)
        pair.response.CopyFrom(response)
        return record.SerializeToString()

    def _log(self, model: ModelConfig) -> RequestLog:
        config = model.logging_config
        if config.log_collector_config.type != COLLECTOR or config.HasField("custom_logging_config"):
            raise invalid("No request-logger-creator provided.")
        sampling = _sampling(config)
        if not 0 <= sampling.sampling_rate <= 1:
            raise invalid(f"Model {model.name}: sampling_rate must be from 0 to 1; was {sampling.sampling_rate}")
        prefix = config.log_collector_config.filename_prefix
        if not prefix or not Path(prefix).parent.is_dir() or "\0" in prefix:  # no file name may have a zero byte
            raise invalid(f"Model {model.name}: filename_prefix must begin with a folder that exists; was '{prefix}'")
        metadata = LogMetadata(sampling_config=sampling, saved_model_tags=self._tags)
        return RequestLog(prefix, sampling.sampling_rate, metadata)


def _sampling(config: LoggingConfig) -> SamplingConfig:
    """A model's sampling, with the rate of the first per-task configuration that applies to every task, if any does."""
    sampling = SamplingConfig()
    sampling.CopyFrom(config.sampling_config)
    for task in sampling.per_task_sampling_configs:
        if not task.dc and not task.HasField("task_index"):
            sampling.sampling_rate = task.sampling_rate
            break
    return sampling
