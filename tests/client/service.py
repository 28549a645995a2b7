"""A small model server on grpcio for tests of the clients, with two models: 0.5 x + 2, and an echo."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np

from headrace_protos import (
    Code,
    DataType,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    ModelVersionStatus,
    PredictRequest,
    PredictResponse,
    SignatureDef,
    SignatureDefMap,
    StatusProto,
    TensorInfo,
    TensorShapeProto,
)
from headrace_protos.tensor import to_array, to_proto

Arrays = dict[str, np.ndarray]

LOAD_ERROR = "no space left on device"


class Service:
    """Serves version 3 of `half_plus_two`, which also has an `echo` signature, and `stuck`, which waits for `release`.

    Records the requests, the seconds that each had left, and the metadata of the last one. Refuses the next `refusals`
    calls as UNAVAILABLE, with some trailing metadata. If `holds` is set, all models wait like `stuck`. `most` is the
    largest number of concurrent Predicts so far.
    """

    def __init__(self) -> None:
        self.requests: list[PredictRequest] = []
        self.time_left: list[float | None] = []
        self.refusals = 0
        self.metadata_sent: dict[str, str | bytes] = {}
        self.most = 0
        self._active = 0
        self._lock = threading.Lock()
        self.release = threading.Event()
        self.holds = False

    def predict(self, request: PredictRequest, context: grpc.ServicerContext) -> PredictResponse:
        self.requests.append(request)
        self.time_left.append(context.time_remaining())
        self.metadata_sent = dict(context.invocation_metadata())
        with self._counted():
            self._admit(request.model_spec, context)
        arrays = {name: to_array(proto) for name, proto in request.inputs.items()}
        outputs = arrays if request.model_spec.signature_name == "echo" else half_plus_two(arrays)
        wanted = request.output_filter or outputs
        return PredictResponse(outputs={name: to_proto(outputs[name]) for name in wanted})

    def metadata(self, request: GetModelMetadataRequest, context: grpc.ServicerContext) -> GetModelMetadataResponse:
        self._admit(request.model_spec, context)
        response = GetModelMetadataResponse(model_spec=request.model_spec)
        response.model_spec.version.value = 3
        response.metadata["signature_def"].Pack(SignatureDefMap(signature_def=signatures()))
        return response

    def status(self, request: GetModelStatusRequest, context: grpc.ServicerContext) -> GetModelStatusResponse:
        self._admit(request.model_spec, context)
        failed = StatusProto(error_code=Code.RESOURCE_EXHAUSTED, error_message=LOAD_ERROR)
        versions = [
            ModelVersionStatus(version=3, state=ModelVersionStatus.AVAILABLE, status=StatusProto()),
            ModelVersionStatus(version=2, state=ModelVersionStatus.END, status=failed),
        ]
        wanted = request.model_spec.version.value
        return GetModelStatusResponse(model_version_status=[v for v in versions if wanted in (0, v.version)])

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._lock:
            self._active += 1
            self.most = max(self.most, self._active)
        try:
            yield
        finally:
            with self._lock:
                self._active -= 1

    def _admit(self, spec: ModelSpec, context: grpc.ServicerContext) -> None:
        if self.refusals:
            self.refusals -= 1
            context.set_trailing_metadata((("why", "full"), ("why-bin", b"\0\xff")))
            context.abort(grpc.StatusCode.UNAVAILABLE, "the queue is full")
        if spec.name == "stuck" or self.holds:
            self.release.wait(timeout=60)
        if spec.name not in ("half_plus_two", "stuck"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: Latest({spec.name})")


def half_plus_two(arrays: Arrays) -> Arrays:
    """Returns y = 0.5 x + 2 and the number of rows; x is 0 if it is left out."""
    y = arrays.get("x", np.zeros(1, np.float32)) * np.float32(0.5) + np.float32(2)
    return {"y": y, "rows": np.array([len(y)])}


def signatures() -> dict[str, SignatureDef]:
    """Returns signatures with an open dimension, with an open rank, and the one that TensorFlow adds."""
    x = TensorInfo(dtype=DataType.DT_FLOAT, tensor_shape=shape(-1, 4))
    rows = TensorInfo(dtype=DataType.DT_INT64, tensor_shape=shape(1))
    text = TensorInfo(dtype=DataType.DT_STRING, tensor_shape=TensorShapeProto(unknown_rank=True))
    scalar = TensorInfo(dtype=DataType.DT_BFLOAT16, tensor_shape=shape())
    no_tensor = TensorInfo(dtype=DataType.DT_INVALID, tensor_shape=TensorShapeProto(unknown_rank=True))
    return {
        "__saved_model_init_op": SignatureDef(outputs={"__saved_model_init_op": no_tensor}),
        "serving_default": SignatureDef(inputs={"x": x}, outputs={"y": x, "rows": rows}),
        "score": SignatureDef(inputs={"text": text}, outputs={"score": scalar}),
    }


def shape(*sizes: int) -> TensorShapeProto:
    """Returns the message for a shape; -1 is an open dimension."""
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])


def start(
    service: Service,
    *options: tuple[str, Any],
    credentials: grpc.ServerCredentials | None = None,
    address: str = "127.0.0.1:0",
) -> tuple[grpc.Server, str]:
    """Starts the service on a free port, with gRPC's options, and returns the server and its target."""
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1), *options])
    server.add_generic_rpc_handlers([prediction_service(service), model_service(service)])
    port = server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
    server.start()
    return server, f"localhost:{port}"


def prediction_service(service: Service) -> grpc.GenericRpcHandler:
    predict = grpc.unary_unary_rpc_method_handler(
        service.predict, PredictRequest.FromString, PredictResponse.SerializeToString
    )
    metadata = grpc.unary_unary_rpc_method_handler(
        service.metadata, GetModelMetadataRequest.FromString, GetModelMetadataResponse.SerializeToString
    )
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"Predict": predict, "GetModelMetadata": metadata}
    return grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", methods)


def model_service(service: Service) -> grpc.GenericRpcHandler:
    status = grpc.unary_unary_rpc_method_handler(
        service.status, GetModelStatusRequest.FromString, GetModelStatusResponse.SerializeToString
    )
    methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"GetModelStatus": status}
    return grpc.method_handlers_generic_handler("tensorflow.serving.ModelService", methods)
