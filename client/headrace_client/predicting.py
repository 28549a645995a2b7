"""Predict calls of one model, and the handling of refusals by the model; shared by both clients."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from headrace_client import request
from headrace_client.declared import Declared, Wanted
from headrace_client.request import Call, ServerError

Inputs = Mapping[str, ArrayLike]
Outputs = dict[str, np.ndarray]
PredictCall = Call[Outputs]


@dataclass(frozen=True, slots=True)
class Predicting:
    """Makes the calls of `wanted`, a target; each returns the named `outputs`, or all."""

    declared: Declared
    wanted: Wanted
    outputs: Collection[str]

    def call(self, inputs: Inputs) -> PredictCall:
        """Returns the call for `inputs`, in the dtypes that the model declares, as far as they are known.

        Raises ValueError for an argument that cannot be sent.
        """
        wanted = self.wanted
        spec = request.model_spec(wanted.model, wanted.version, wanted.label, wanted.signature)
        request.check_inputs(inputs)
        return request.predict(spec, self.declared.fitted(wanted, inputs), self.outputs)

    def should_ask(self, inputs: Inputs, call: PredictCall, error: ServerError) -> bool:
        """Returns whether the model's declaration may explain a refusal, and must be requested first."""
        return self.declared.should_ask(self.wanted, error, converted=not request.same_dtypes(inputs, _sent(call)))

    def again(self, inputs: Inputs, call: PredictCall, error: ServerError) -> PredictCall:
        """Returns the call for a second try; if it would be the same call, raises the refusal with an explanation."""
        again = self.call(inputs)
        if request.same_dtypes(_sent(again), _sent(call)):
            raise self.declared.explained(self.wanted, _sent(call), error) from error.__cause__
        return again


class Many:
    """Many Predicts of one model.

    `calls` are the calls to make, and the result of each is stored in `answers`, in order.
    """

    def __init__(self, predicting: Predicting, inputs: Sequence[Inputs]) -> None:
        self._predicting = predicting
        self.wanted = predicting.wanted
        self._inputs = inputs
        self.calls = [predicting.call(each) for each in inputs]
        self.answers: list[Outputs | ServerError] = []

    def should_ask(self) -> bool:
        """Returns whether the model's declaration must be requested before refused calls are made again."""
        ask = self._predicting.should_ask
        return any(ask(self._inputs[place], self.calls[place], error) for place, error in self._refused())

    def again(self) -> dict[int, PredictCall]:
        """Returns the calls to make once more, by their positions; explains the refusals of the others."""
        calls = {}
        for place, error in self._refused():
            try:
                calls[place] = self._predicting.again(self._inputs[place], self.calls[place], error)
            except ServerError as explained:
                self.answers[place] = explained
        return calls

    def take(self, again: Mapping[int, PredictCall], answers: Sequence[Outputs | ServerError]) -> None:
        """Stores the results of the repeated calls at their positions."""
        for place, answer in zip(again, answers, strict=True):
            self.answers[place] = answer

    def results(self, *, return_exceptions: bool) -> list[Any]:
        """Returns the result of each call; raises the first failure unless failures are to be returned."""
        refused = self._refused()
        if refused and not return_exceptions:
            raise refused[0][1]
        return self.answers

    def _refused(self) -> list[tuple[int, ServerError]]:
        return [(place, answer) for place, answer in enumerate(self.answers) if isinstance(answer, ServerError)]


def check_in_flight(in_flight: int) -> None:
    """Raises ValueError unless `in_flight` is valid."""
    if in_flight < 1:
        message = f"in_flight must be a whole number of at least 1; was {in_flight}"
        raise ValueError(message)


def _sent(call: PredictCall) -> Inputs:
    return call.inputs or {}
