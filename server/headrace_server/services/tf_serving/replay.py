"""Answers the calls that a warm-up file may contain, with the version that the file belongs to."""

from collections.abc import Callable, Mapping
from typing import Any

from headrace_server.models.call import Call
from headrace_server.models.servable import Servable
from headrace_server.models.warmup import Answer
from headrace_server.services.rpc import Method
from headrace_server.services.servables import OneServable, Servables
from headrace_server.services.tf_serving.prediction import PredictionService
from headrace_server.services.tf_serving.request_log.messages import LOG_TYPES, asked_specs


def warmup_answers(make: Callable[[Servables], PredictionService], servable: Servable) -> Mapping[str, Answer]:
    """The functions that answer a record's request with one servable, by the record's `log_type`.

    As in TF Serving, the model and the version that a request names are ignored.

    Args:
        make: Creates the service on top of some servables.
        servable: The servable that answers.
    """
    methods = make(OneServable(servable)).service.methods
    return {LOG_TYPES[method.request]: _answer(method, servable) for method in methods if method.request in LOG_TYPES}


def _answer(method: Method, servable: Servable) -> Answer:
    async def answer(request: Any, call: Call) -> object:
        for spec in asked_specs(request):
            spec.name = servable.name
        return await method.answer(request, call)

    return answer
