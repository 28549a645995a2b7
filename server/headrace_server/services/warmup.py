"""The calls that a warm-up file may hold, answered by the version that it belongs to."""

from collections.abc import Mapping

from headrace_protos import ModelSpec, PredictRequest, PredictResponse
from headrace_server.models.servable import Call, Servable
from headrace_server.models.warmup import Answer
from headrace_server.services.prediction import PredictionService
from headrace_server.services.servables import OneServable


def warmup_answers(servable: Servable) -> Mapping[str, Answer]:
    """For each kind of PredictionLog, by its `log_type`, the function that answers its request with this servable.

    TF Serving: the model and the version that a request names do not count.
    """
    service = PredictionService(OneServable(servable))

    async def predict(request: PredictRequest, call: Call) -> PredictResponse:
        _address(request.model_spec, servable)
        return await service.predict(request, call)

    return {"predict_log": predict}


def _address(spec: ModelSpec, servable: Servable) -> None:
    spec.name = servable.name
    spec.version.value = servable.version  # in place of a label, too
