"""PredictionService: messages in, arrays down, arrays up, messages out."""

from collections.abc import Mapping

from headrace_batching.task import Arrays
from headrace_protos import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    PredictRequest,
    PredictResponse,
    SignatureDef,
    SignatureDefMap,
    TensorInfo,
    TensorProto,
)
from headrace_protos.tensor import TensorError, to_array, to_proto
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.errors import invalid
from headrace_server.models.servable import Call
from headrace_server.services.model_spec import asked_version, require_model_spec
from headrace_server.services.rpc import Method, Service
from headrace_server.services.servables import Servables

SIGNATURE_DEF = "signature_def"


class PredictionService:
    """`tensorflow.serving.PredictionService`.

    Args:
        manager: Where servables come from.
        as_content: Whether answers carry `tensor_content`; TF Serving fills the typed `*_val` fields by default.
    """

    def __init__(self, manager: Servables, *, as_content: bool = False) -> None:
        self._manager = manager
        self._as_content = as_content

    @property
    def service(self) -> Service:
        """What a transport registers."""
        return Service(
            "tensorflow.serving.PredictionService",
            (
                Method("Predict", PredictRequest, self.predict),
                Method("GetModelMetadata", GetModelMetadataRequest, self.get_model_metadata),
            ),
        )

    async def predict(self, request: PredictRequest, call: Call) -> PredictResponse:
        """Runs a signature on the request's tensors. TF Serving: predict_util.cc has the checks in this order."""
        spec = require_model_spec(request)
        with self._manager.servable(spec.name, asked_version(spec)) as servable:
            name, signature = servable.signature(spec.signature_name)
            signature.check_names(request.inputs)
            inputs = _decode(request.inputs)
            outputs = signature.check_outputs(request.output_filter)
            results = await servable.run(name, inputs, outputs, call)
            return self._response(spec.name, servable.version, name, results)

    async def get_model_metadata(self, request: GetModelMetadataRequest, call: Call) -> GetModelMetadataResponse:
        """Describes a model's signatures. TF Serving: get_model_metadata_impl.cc."""
        del call
        spec = require_model_spec(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURE_DEF:
                raise invalid(f"Metadata field {field} is not supported")
        response = GetModelMetadataResponse()
        with self._manager.servable(spec.name, asked_version(spec)) as servable:
            response.model_spec.name = spec.name
            response.model_spec.version.value = servable.version
            response.metadata[SIGNATURE_DEF].Pack(_signature_map(servable.signatures))
        return response

    def _response(self, model: str, version: int, signature: str, results: Arrays) -> PredictResponse:
        response = PredictResponse()
        response.model_spec.name = model
        response.model_spec.version.value = version
        response.model_spec.signature_name = signature
        for alias, array in results.items():
            to_proto(array, response.outputs[alias], as_content=self._as_content)
        return response


def _decode(tensors: Mapping[str, TensorProto]) -> Arrays:
    arrays = {}
    for alias in tensors:
        try:
            arrays[alias] = to_array(tensors[alias])
        except TensorError as error:
            raise invalid(f"tensor parsing error: {alias}") from error
    return arrays


def _signature_map(signatures: Mapping[str, Signature]) -> SignatureDefMap:
    return SignatureDefMap(signature_def={name: _signature_def(signature) for name, signature in signatures.items()})


def _signature_def(signature: Signature) -> SignatureDef:
    return SignatureDef(
        inputs={alias: _tensor_info(spec) for alias, spec in signature.inputs.items()},
        outputs={alias: _tensor_info(spec) for alias, spec in signature.outputs.items()},
        method_name=signature.method_name,
    )


def _tensor_info(spec: TensorSpec) -> TensorInfo:
    info = TensorInfo(name=spec.name, dtype=spec.dtype)
    info.tensor_shape.SetInParent()
    for position, size in enumerate(spec.shape):
        name = spec.dims[position] if spec.dims else ""
        info.tensor_shape.dim.add(size=-1 if size is None else size, name=name)
    return info
