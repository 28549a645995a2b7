"""PredictionService: turns messages into arrays for the model, and its arrays into messages."""

from functools import partial

from google.protobuf.message import DecodeError

from headrace_batching.task import Array, Arrays
from headrace_protos import (
    ClassificationRequest,
    ClassificationResponse,
    Code,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    ModelSpec,
    MultiInferenceRequest,
    MultiInferenceResponse,
    PredictRequest,
    PredictResponse,
    RegressionRequest,
    RegressionResponse,
)
from headrace_protos.tensor import to_proto
from headrace_server.backends.signature import (
    CLASSIFY_METHOD,
    DEFAULT_SIGNATURE,
    PREDICT_METHOD,
    REGRESS_METHOD,
    Signature,
)
from headrace_server.errors import ServingError, invalid
from headrace_server.models.call import Call
from headrace_server.models.servable import Servable
from headrace_server.services.room import check_answer
from headrace_server.services.rpc import MAX_MESSAGE_BYTES, Method, Service
from headrace_server.services.servables import Servables
from headrace_server.services.tf_serving.examples import classification, regression
from headrace_server.services.tf_serving.examples.decoding import read_examples
from headrace_server.services.tf_serving.examples.multi_inference import infer
from headrace_server.services.tf_serving.examples.results import made
from headrace_server.services.tf_serving.metadata import signature_map
from headrace_server.services.tf_serving.model_spec import asked_version, require_model_spec
from headrace_server.services.tf_serving.tensors import decoded

SIGNATURE_DEF = "signature_def"

MAX_PREDICT_FIELDS = 4096
"""The maximum number of inputs, and of outputs, that a PredictRequest may name: far more than a model has."""

_METHODS = (PREDICT_METHOD, CLASSIFY_METHOD, REGRESS_METHOD)


class PredictionService:
    """`tensorflow.serving.PredictionService`.

    Args:
        manager: Finds the servable that a request names.
        as_content: Whether answers carry `tensor_content`; TF Serving fills the typed `*_val` fields by default.
        check_method: Whether a signature answers only the calls that its method name is for; otherwise those that its
            inputs and outputs fit.
        max_answer_bytes: The size of the largest answer to Predict that the transport sends.
    """

    def __init__(
        self,
        manager: Servables,
        *,
        as_content: bool = False,
        check_method: bool = False,
        max_answer_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._manager = manager
        self._max_answer_bytes = max_answer_bytes
        self._as_content = as_content
        self._check_method = check_method

    @property
    def service(self) -> Service:
        """The service, as a transport registers it."""
        return Service(
            "tensorflow.serving.PredictionService",
            (
                Method("Predict", PredictRequest, self.predict, MAX_PREDICT_FIELDS),
                Method("Classify", ClassificationRequest, self.classify),
                Method("Regress", RegressionRequest, self.regress),
                Method("MultiInference", MultiInferenceRequest, self.multi_inference),
                Method("GetModelMetadata", GetModelMetadataRequest, self.get_model_metadata, lasting=True),
            ),
        )

    async def predict(self, request: PredictRequest, call: Call) -> PredictResponse:
        """Runs a signature on the request's tensors. TF Serving's predict_util.cc has the checks in this order."""
        spec = require_model_spec(request)
        with await self._manager.lease(spec.name, asked_version(spec), call.deadline) as servable:
            name, signature = servable.signature(spec.signature_name)
            if self._check_method:
                _check_predictable(signature)
            signature.check_names(request.inputs)
            inputs = signature.complete(await decoded(request.inputs, servable, name))
            outputs = signature.check_outputs(request.output_filter)
            results = await servable.run(name, inputs, outputs, call)
            return self._response(spec, servable, results)

    async def lease(self, spec: ModelSpec, deadline: float | None) -> Servable:
        """Leases the version that a ModelSpec requests, until the end of the `with` block.

        Args:
            spec: The model and the version.
            deadline: When to stop waiting for a version that is not in memory; None means never.

        Raises:
            ServingError: INVALID_ARGUMENT or NOT_FOUND; others as for `Manager.lease`.
        """
        return await self._manager.lease(spec.name, asked_version(spec), deadline)

    async def predict_arrays(self, servable: Servable, name: str, inputs: Arrays, call: Call) -> Arrays:
        """Runs a signature on arrays: a Predict without messages, with all outputs.

        Args:
            servable: The version, which the caller has leased.
            name: The signature's name; empty means the default.
            inputs: Arrays by alias.
            call: How to deliver the answer, and the deadline.
        """
        name, signature = servable.signature(name)
        if self._check_method:
            _check_predictable(signature)
        signature.check_names(inputs)
        return await servable.run(name, signature.complete(inputs), signature.every_output, call)

    def predict_messages(
        self, spec: ModelSpec, servable: Servable, inputs: Arrays, outputs: Arrays
    ) -> tuple[PredictRequest, PredictResponse]:
        """The messages that a record has for a call of `predict_arrays`; their arrays are in `tensor_content`."""
        request = PredictRequest(model_spec=spec)
        response = PredictResponse(model_spec=_effective(spec, servable))
        for arrays, tensors in ((inputs, request.inputs), (outputs, response.outputs)):
            for alias, array in arrays.items():
                to_proto(array, tensors[alias], as_content=True)
        return request, response

    async def classify(self, request: ClassificationRequest, call: Call) -> ClassificationResponse:
        """Runs a signature on the Examples; returns each one's classes and scores, as in TF Serving's classifier.cc."""
        spec = require_model_spec(request)
        with await self._manager.lease(spec.name, asked_version(spec), call.deadline) as servable:
            name, signature = _named(servable, spec)
            outputs = classification.wanted_outputs(signature, check_method=self._check_method)
            examples = read_examples(request.input)
            servable.check_rows(name, len(examples))
            results = await servable.run(name, await examples.decoded(signature), outputs, call)
            make = partial(classification.classification, signature, results, len(examples))
            result = await made(results, make)
            return ClassificationResponse(result=result, model_spec=_effective(spec, servable))

    async def regress(self, request: RegressionRequest, call: Call) -> RegressionResponse:
        """Runs a signature on the Examples; returns one value for each, as in TF Serving's regressor.cc."""
        spec = require_model_spec(request)
        with await self._manager.lease(spec.name, asked_version(spec), call.deadline) as servable:
            name, signature = _named(servable, spec)
            outputs = regression.wanted_outputs(signature, check_method=self._check_method)
            examples = read_examples(request.input)
            servable.check_rows(name, len(examples))
            results = await servable.run(name, await examples.decoded(signature), outputs, call)
            result = await made(results, partial(regression.regression, signature, results, len(examples)))
            return RegressionResponse(result=result, model_spec=_effective(spec, servable))

    async def multi_inference(self, request: MultiInferenceRequest, call: Call) -> MultiInferenceResponse:
        """Runs several signatures of one version, which the first task names, as in TF Serving's multi_inference.cc."""
        first = request.tasks[0].model_spec if request.tasks else ModelSpec()
        with await self._manager.lease(first.name, asked_version(first), call.deadline) as servable:
            results = await infer(servable, request, call, check_method=self._check_method)
            for task, result in zip(request.tasks, results, strict=True):
                result.model_spec.CopyFrom(_effective(task.model_spec, servable))
            return MultiInferenceResponse(results=results)

    async def get_model_metadata(self, request: GetModelMetadataRequest, call: Call) -> GetModelMetadataResponse:
        """Describes a model's signatures, as in TF Serving's get_model_metadata_impl.cc."""
        spec = require_model_spec(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURE_DEF:
                raise invalid(f"Metadata field {field} is not supported")
        response = GetModelMetadataResponse()
        with await self._manager.lease(spec.name, asked_version(spec), call.deadline) as servable:
            response.model_spec.name = spec.name
            response.model_spec.version.value = servable.version
            response.metadata[SIGNATURE_DEF].Pack(signature_map(servable.signatures))
        return response

    def _response(self, spec: ModelSpec, servable: Servable, results: Arrays) -> PredictResponse:
        size = 0
        for array in results.values():
            size += _bytes_of(array)
        if size > self._max_answer_bytes:
            raise _too_large(results, self._max_answer_bytes)
        check_answer(size)
        response = PredictResponse(model_spec=_effective(spec, servable))
        try:
            for alias, array in results.items():
                to_proto(array, response.outputs[alias], as_content=self._as_content)
        except DecodeError as error:  # the message is too large: integers may take more bytes in it than in memory
            raise _too_large(results, self._max_answer_bytes) from error
        return response


def _effective(spec: ModelSpec, servable: Servable) -> ModelSpec:
    """The part of a response about the model that ran; as in TF Serving's util.cc, a label is not repeated."""
    effective = ModelSpec(name=spec.name, signature_name=spec.signature_name or DEFAULT_SIGNATURE)
    effective.version.value = servable.version
    return effective


def _too_large(results: Arrays, limit: int) -> ServingError:
    """The reason why an answer is not sent, in gRPC's words, and the name of the largest output."""
    sizes = {alias: _bytes_of(array) for alias, array in results.items()}
    largest = max(sizes, key=sizes.__getitem__)
    return ServingError(
        Code.RESOURCE_EXHAUSTED,
        f"SERVER: Sent message larger than max ({sum(sizes.values())} vs. {limit}); "
        f"output {largest} alone has {sizes[largest]} bytes",
    )


def _bytes_of(array: Array) -> int:
    return sum(map(len, array.flat)) if array.dtype.hasobject else array.nbytes


def _named(servable: Servable, spec: ModelSpec) -> tuple[str, Signature]:
    """The signature that a Classify or Regress names. For a missing signature, Predict has another status code."""
    name = spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise invalid(f"No signature was found with the name: {name}")
    return name, servable.signatures[name]


def _check_predictable(signature: Signature) -> None:
    if signature.method_name not in _METHODS:
        raise ServingError(
            Code.INTERNAL,
            f"Expected prediction signature method_name to be one of {{{', '.join(_METHODS)}}}. "
            f"Was: {signature.method_name}",
        )
