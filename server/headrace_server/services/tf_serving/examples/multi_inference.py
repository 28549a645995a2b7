"""MultiInference: several signatures of one model over the same tf.Examples, in as few runs as they need."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from headrace_batching.task import Arrays
from headrace_protos import Code, InferenceResult, InferenceTask, MultiInferenceRequest
from headrace_server.backends.signature import CLASSIFY_METHOD, DEFAULT_SIGNATURE, REGRESS_METHOD, Signature
from headrace_server.errors import ServingError, invalid
from headrace_server.models.call import Call
from headrace_server.models.servable import Servable
from headrace_server.services.tf_serving.examples import classification, regression
from headrace_server.services.tf_serving.examples.decoding import Examples, read_examples
from headrace_server.services.tf_serving.examples.results import made

_WANTED_OUTPUTS = {
    CLASSIFY_METHOD: classification.wanted_outputs,
    REGRESS_METHOD: regression.wanted_outputs,
}


@dataclass(frozen=True, slots=True)
class Inference:
    """One of the requested inferences, after its checks.

    Attributes:
        method: The method, which determines how the outputs are converted.
        name: The name of the inference's signature.
        signature: The inference's signature.
        outputs: Aliases of the outputs that the inference needs.
    """

    method: str
    name: str
    signature: Signature
    outputs: tuple[str, ...]

    @property
    def tensors(self) -> set[str]:
        """The model's own names of these outputs."""
        return {self.signature.outputs[alias].name for alias in self.outputs}

    def covers(self, other: "Inference") -> bool:
        """Whether a run of this inference's signature provides everything that the other needs."""
        given = {spec.name for spec in self.signature.outputs.values()}
        return self.signature.inputs == other.signature.inputs and other.tensors <= given


async def infer(
    servable: Servable, request: MultiInferenceRequest, call: Call, *, check_method: bool
) -> list[InferenceResult]:
    """Runs all tasks, and returns their results in order, with no ModelSpec yet.

    Args:
        servable: The version that all inferences run on.
        request: Tasks of one model, and the Examples.
        call: How to deliver the answer, and the deadline.
        check_method: Whether a signature must have been exported for the requested method.

    Raises:
        ServingError: If one task cannot be done, none is, as in TF Serving's multi_inference.cc.
    """
    inferences = list(_checked(servable, request.tasks, check_method))
    examples = read_examples(request.input)
    tensors = await _run(servable, inferences, examples, call)
    servable.count_examples(len(examples))
    return [
        await made(found, partial(_result, inference, found, len(examples)))
        for inference, found in zip(inferences, tensors, strict=True)
    ]


def _checked(servable: Servable, tasks: Iterable[InferenceTask], check_method: bool) -> Iterable[Inference]:
    model, seen = "", set[str]()
    for task in tasks:
        spec = task.model_spec
        if not spec.name:
            raise invalid("Found ModelSpec with an empty model name.")
        if spec.name != (model := model or spec.name):
            raise invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
        name = spec.signature_name or DEFAULT_SIGNATURE
        if name in seen:
            raise invalid(f"Duplicate evaluation of signature: {name}")
        seen.add(name)
        yield _inference(servable, name, task.method_name, check_method)


def _inference(servable: Servable, name: str, method: str, check_method: bool) -> Inference:
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid(f"Requested signature not found in model graph: {name}")
    if method not in _WANTED_OUTPUTS:
        raise ServingError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {method}")
    return Inference(method, name, signature, _WANTED_OUTPUTS[method](signature, check_method=check_method))


async def _run(servable: Servable, inferences: Sequence[Inference], examples: Examples, call: Call) -> list[Arrays]:
    """Runs the model; returns each inference's arrays by the model's own names. A run may serve several inferences."""
    sources = [_source(inference, inferences) for inference in inferences]
    needed: dict[str, set[str]] = {source.name: set() for source in sources}
    for inference, source in zip(inferences, sources, strict=True):
        needed[source.name] |= inference.tensors
    by_name = {source.name: source for source in sources}
    runs = [_tensors(servable, source, needed[name], examples, call) for name, source in by_name.items()]
    ended = await asyncio.gather(*runs, return_exceptions=True)
    found: dict[str, Arrays] = {}
    for name, end in zip(by_name, ended, strict=True):
        if isinstance(end, BaseException):
            raise end
        found[name] = end
    return [found[source.name] for source in sources]


def _source(inference: Inference, inferences: Sequence[Inference]) -> Inference:
    """The inference whose run provides these outputs: the one with the most outputs, so that many share it."""
    covering = [other for other in inferences if other.covers(inference)]
    return max(covering, key=lambda other: len(other.signature.outputs))


async def _tensors(servable: Servable, source: Inference, needed: set[str], examples: Examples, call: Call) -> Arrays:
    outputs = {alias: spec.name for alias, spec in source.signature.outputs.items() if spec.name in needed}
    servable.check_rows(source.name, len(examples))
    arrays = await servable.run(source.name, await examples.decoded(source.signature), tuple(outputs), call)
    return {outputs[alias]: array for alias, array in arrays.items()}


def _result(inference: Inference, tensors: Arrays, examples: int) -> InferenceResult:
    signature = inference.signature
    outputs = {alias: tensors[signature.outputs[alias].name] for alias in inference.outputs}
    if inference.method == CLASSIFY_METHOD:
        return InferenceResult(classification_result=classification.classification(signature, outputs, examples))
    return InferenceResult(regression_result=regression.regression(signature, outputs, examples))
