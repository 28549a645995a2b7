"""Routes: the properties of a signature by which headrace_native decodes and answers its plain requests."""

from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass

import headrace_native as native

from headrace_batching import BatchingError, DeadlineExceeded, QueueFull
from headrace_batching.errors import CallerExhausted
from headrace_batching.padding import SHORTEST
from headrace_protos import Code, DataType
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.errors import status_of, timed_out
from headrace_server.metrics.calls import CountCalls, Tallied
from headrace_server.metrics.counting import Tally
from headrace_server.metrics.names import LATENCY
from headrace_server.models.plain import Plain
from headrace_server.models.servable import Servable
from headrace_server.services.json.arrays import PLAIN
from headrace_server.services.open_inference.inference import run_status
from headrace_server.services.tf_serving.examples.plain import PlainInference, plain_examples
from headrace_server.transports.grpc.endpoint import Endpoint
from headrace_server.transports.grpc.handlers import CODE_NAMES, status

PREDICTION = "tensorflow.serving.PredictionService"
INFERENCE = "inference.GRPCInferenceService"

Status = Callable[[Exception], tuple[Code, str]]


class PlainRoutes:
    """Creates the routes of versions that serve.

    Args:
        endpoint: Counts calls, and says how answers are written.
        max_send: The largest answer in bytes.
    """

    def __init__(self, endpoint: Endpoint, max_send: int) -> None:
        self._endpoint = endpoint
        self._max_send = max_send
        self._full, self._infer_full = status(QueueFull("{}")), run_status(QueueFull("{}"), "{}")
        self._observe = endpoint.observe(PREDICTION, "Predict")
        self._observe_classify = endpoint.observe(PREDICTION, "Classify")
        self._observe_regress = endpoint.observe(PREDICTION, "Regress")
        self._observe_multi = _OfNoModel(endpoint.observe(PREDICTION, "MultiInference"))
        self._observe_infer = endpoint.observe(INFERENCE, "ModelInfer")

    def of(self, servable: Servable) -> dict[str, native.Route]:
        """A route for each signature whose requests need no further check, by name."""
        plain = {name: servable.plain(name, native.DTYPES) for name in servable.signatures}
        return {name: self._route(servable, name, found) for name, found in plain.items() if found is not None}

    def _route(self, servable: Servable, name: str, plain: Plain) -> native.Route:
        batched, counts = plain.max_rows is not None, _Counts(servable.name, plain)
        answered, failed = counts.of(self._observe, "Predict")
        return native.Route(
            plain.lane,
            {
                "model": servable.name,
                "version": servable.version,
                "signature": name,
                "inputs": [
                    (alias, spec.dtype, spec.shape[1:] if batched else spec.shape)
                    for alias, spec in plain.signature.inputs.items()
                ],
                "outputs": plain.signature.every_output,
                "batched": batched,
                "max_rows": plain.max_rows or 1,
                "larger_alone": plain.larger_alone,
                "max_send": self._max_send,
                "as_content": self._endpoint.as_content,
                "full": self._full,
                "bounds": LATENCY,
                "answered": answered,
                "failed": failed,
                "rest": self._over_rest(counts, "predict", "Predict") if _is_json(plain.signature) else None,
                "infer": self._infer(counts) if batched else None,
                "padding": _padding(plain.signature) if batched else None,
                "bound": plain.signature.bound if batched else None,
                "examples": self._examples(servable, counts),
            },
        )

    def _infer(self, counts: "_Counts") -> "native.InferFields | None":
        signature = counts.plain.signature
        if any(spec.dtype == DataType.DT_STRING for spec in _specs(signature)):
            return None
        answered, failed = counts.of(self._observe_infer, "ModelInfer", run_status)
        return {
            "outputs": [(alias, spec.dtype) for alias, spec in signature.outputs.items()],
            "full": self._infer_full,
            "answered": answered,
            "failed": failed,
            "rest": self._over_rest(counts, "infer", "ModelInfer", run_status),
        }

    def _examples(self, servable: Servable, counts: "_Counts") -> "native.ExamplesFields | None":
        own = counts.plain.signature
        found = plain_examples(own)
        if found is None:
            return None
        alike = [list(signature.inputs.items()) for signature in servable.signatures.values()]

        def count_examples(calls: list[int]) -> None:
            for examples in calls:
                servable.count_examples(examples)

        return {
            "classify": self._inference(counts, found.classify, self._observe_classify, "Classify"),
            "regress": self._inference(counts, found.regress, self._observe_regress, "Regress"),
            "multi": (*counts.of(self._observe_multi, "MultiInference"), count_examples),
            "serialized": not own.features,
            "tensors": [spec.name for spec in own.outputs.values()],
            "inputs": alike.index(list(own.inputs.items())),
        }

    def _inference(
        self, counts: "_Counts", inference: PlainInference | None, observe: CountCalls, api: str
    ) -> "native.InferenceFields | None":
        """How Classify or Regress uses the outputs; None for a signature that it cannot use."""
        if inference is None:
            return None
        answered, failed = counts.of(observe, api)
        return {
            "classes": inference.classes,
            "values": inference.values,
            "labels": inference.labels,
            "check": inference.check,
            "answered": answered,
            "failed": failed,
            "rest": self._over_rest(counts, api.lower(), api),
        }

    def _over_rest(self, counts: "_Counts", verb: str, api: str, status: Status = status_of) -> "_Counters | None":
        """The counters of one verb over REST; None if there is no REST."""
        observe = self._endpoint.observe_rest
        return None if observe is None else counts.of(observe(verb), api, status)


_WITHOUT_A_RUN: dict[type[Exception], tuple[Code, str]] = {
    CallerExhausted: (Code.RESOURCE_EXHAUSTED, ""),
    futures.CancelledError: (Code.CANCELLED, ""),
    futures.TimeoutError: (Code.DEADLINE_EXCEEDED, ""),
}


class _Failed:
    """Counts plain calls of one version that failed in the same way, and returns their code and text. Any thread.

    Args:
        name: The model's name.
        plain: Counts the tasks that the queue refused, and says whether errors may mention a queue.
        observe: Counts calls.
        status: Returns the code and the text of a failure.
    """

    def __init__(self, name: str, plain: Plain, observe: CountCalls, status: Status) -> None:
        self._name = name
        self._plain = plain
        self._observe = observe
        self._status = status

    def __call__(self, error: Exception, tally: Tally, total: float) -> tuple[int, str]:
        """Counts calls that failed with the same error, as `CountCalls.several` does; returns their code and text."""
        code, text = self._end(error)
        self._observe.several(self._name, CODE_NAMES[code], tally, total)
        if isinstance(error, BatchingError):
            for _ in range(sum(count for _, count in tally)):
                self._plain.refused(error)
        return code, text

    def _end(self, error: Exception) -> tuple[Code, str]:
        if type(error) in _WITHOUT_A_RUN:
            return _WITHOUT_A_RUN[type(error)]
        if isinstance(error, DeadlineExceeded) and not self._plain.queued:
            error = timed_out()  # as in `Servable.run`
        return self._status(error)


_Counters = tuple[Callable[[Tallied], None], _Failed]


@dataclass(frozen=True, slots=True)
class _Counts:
    """Counts the calls of one signature."""

    model: str
    plain: Plain

    def of(self, observe: CountCalls, api: str, status: Status = status) -> _Counters:
        """The counters of one method: for answered calls, and for failed ones, whose code and text `status` returns."""
        return self.plain.answers(observe, api), _Failed(self.model, self.plain, observe, status)


class _OfNoModel:
    """Counts MultiInference calls without a model's name: their tasks name models, the request as a whole does not."""

    def __init__(self, observe: CountCalls) -> None:
        self._observe = observe

    def several(self, model: str, code: str, tally: Tally, total: float) -> None:
        """See `CountCalls.several`."""
        del model
        self._observe.several("", code, tally, total)


def _specs(signature: Signature) -> tuple[TensorSpec, ...]:
    return (*signature.inputs.values(), *signature.outputs.values())


def _is_json(signature: Signature) -> bool:
    return all(spec.dtype in PLAIN or spec.dtype == DataType.DT_STRING for spec in _specs(signature))


def _padding(signature: Signature) -> "native.PaddingFields | None":
    padding = signature.padding
    if padding is None:
        return None
    return {
        "inputs": [
            (padding.inputs[alias], padding.values[alias].tobytes(), alias in padding.told_apart)
            for alias in signature.inputs
        ],
        "outputs": padding.outputs,
        "limits": padding.limits,
        "shortest": SHORTEST,
    }
