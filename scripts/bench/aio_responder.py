"""A bare grpc.aio responder on uvloop: decodes a Predict, answers zeros of the right shape, and runs no model.

Usage: python -m scripts.bench.aio_responder PORT OUTPUTS, where OUTPUTS is the number of floats per row of the answer.
"""

import sys

import grpc.aio
import uvloop

from headrace_protos import PredictRequest, PredictResponse
from headrace_protos.tensorflow.core.framework.types_pb2 import DT_FLOAT

Context = grpc.aio.ServicerContext[PredictRequest, PredictResponse]


class Responder:
    """Answers a Predict of input `x`, any dtype [rows, ...], with an output `y` of zeros, float32 [rows, outputs]."""

    def __init__(self, outputs: int) -> None:
        self._outputs = outputs

    async def predict(self, request: PredictRequest, context: Context) -> PredictResponse:
        """Returns the answer, or INVALID_ARGUMENT if no input has a batch axis."""
        if not request.inputs["x"].tensor_shape.dim:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no input x with a batch axis")
        rows = request.inputs["x"].tensor_shape.dim[0].size
        response = PredictResponse()
        response.model_spec.CopyFrom(request.model_spec)
        response.model_spec.version.value = 1
        output = response.outputs["y"]
        output.dtype = DT_FLOAT
        output.tensor_shape.dim.add(size=rows)
        output.tensor_shape.dim.add(size=self._outputs)
        output.float_val.extend([0.0] * (rows * self._outputs))
        return response


async def serve(port: int, outputs: int) -> None:
    """Serves on loopback until the process is stopped."""
    predict = grpc.unary_unary_rpc_method_handler(
        Responder(outputs).predict,
        request_deserializer=PredictRequest.FromString,
        response_serializer=PredictResponse.SerializeToString,
    )
    server = grpc.aio.server()
    service = "tensorflow.serving.PredictionService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Predict": predict}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(port=int(sys.argv[1]), outputs=int(sys.argv[2])))
