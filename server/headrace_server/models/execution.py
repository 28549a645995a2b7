"""How one request is computed: in the queue, with a sequence's state, or by the steps of an ensemble."""

import time
from collections.abc import Mapping

from headrace_batching import BatchingError
from headrace_batching.batch import shared_rows
from headrace_batching.task import Arrays
from headrace_server.backends.base import Backend
from headrace_server.backends.signature import DEFAULT_SIGNATURE, Signature
from headrace_server.errors import ServingError, invalid
from headrace_server.metrics.versions import ServableMetrics
from headrace_server.models.answers import MEMORY, AnswerSizes, NeverFits
from headrace_server.models.call import Call
from headrace_server.models.ensemble import Ensemble
from headrace_server.models.requests import Requests
from headrace_server.models.schedulers import Outputs
from headrace_server.models.sequences import Sequences
from headrace_server.models.undeclared import as_declared
from headrace_server.security.visit import visit_now, within_a_call


class Execution:
    """Computes the requests of one loaded version.

    Args:
        signatures: The signatures by name, as callers see them.
        backend: The version's backend.
        requests: Puts requests into the queues.
        sequences: Keeps the state of a stateful model; None for any other model.
        metrics: Counts the runs of an ensemble.
    """

    def __init__(
        self,
        signatures: Mapping[str, Signature],
        backend: Backend,
        requests: Requests,
        sequences: Sequences | None,
        metrics: ServableMetrics,
    ) -> None:
        self._signatures = signatures
        self._backend = backend
        self._requests = requests
        self._sequences = sequences
        self._metrics = metrics
        self._sizes = AnswerSizes(signatures)

    async def run(self, signature: str, inputs: Arrays, outputs: Outputs, call: Call) -> Arrays:
        """Computes the outputs of a request, as for `Servable.run`.

        Memory for the outputs is reserved first, if the call's transport wants that; the steps of an ensemble reserve
        it themselves. A request without elements is not run, however many rows it claims.
        """
        memory = MEMORY.get()
        if memory is None or isinstance(self._backend, Ensemble) or _has_no_elements(inputs):
            return await self._run(signature, inputs, outputs, call)
        rows = (shared_rows(inputs) if self._signatures[signature].batched else None) or 1
        try:
            memory.reserve(self._sizes.expected(signature, outputs, rows))
        except NeverFits:
            self._sizes.doubt(signature, outputs)
            raise
        computed = await self._run(signature, inputs, outputs, call)
        self._sizes.learn(signature, computed, rows)
        return computed

    async def _run(self, signature: str, inputs: Arrays, outputs: Outputs, call: Call) -> Arrays:
        declared = self._signatures[signature]
        misfit = declared.check_arrays(inputs)
        if misfit and (self._sequences is not None or isinstance(self._backend, Ensemble)):
            raise invalid(misfit)
        if self._sequences is not None:
            return await self._run_sequence(self._sequences, inputs, outputs, call)
        if isinstance(self._backend, Ensemble):
            return await self._run_steps(self._backend, inputs, outputs, call)
        if not misfit:
            return await self._requests.run(signature, inputs, outputs, call)
        served = None if declared.sends_optional(inputs) else as_declared(declared, inputs, outputs)
        if served is None or declared.check_arrays(served[0]):
            raise invalid(misfit)
        reshaped, restore = served
        return restore(await self._requests.run(signature, reshaped, outputs, call))

    async def _run_sequence(self, sequences: Sequences, inputs: Arrays, outputs: Outputs, call: Call) -> Arrays:
        async def run(inputs: Arrays, outputs: Outputs) -> Arrays:
            every = self._backend.signatures[DEFAULT_SIGNATURE].every_output
            wanted = tuple(alias for alias in every if alias in outputs)
            return await self._requests.run(DEFAULT_SIGNATURE, inputs, wanted, call)

        visit = visit_now()
        return await sequences.run(call.sequence, inputs, outputs, run, "" if visit is None else visit.who)

    async def _run_steps(self, ensemble: Ensemble, inputs: Arrays, outputs: Outputs, call: Call) -> Arrays:
        began = time.monotonic()
        try:
            with within_a_call():
                results = await ensemble.run_steps(inputs, outputs, call)
        except (ServingError, BatchingError):
            self._metrics.ran_alone(time.monotonic() - began, failed=True)
            raise
        self._metrics.ran_alone(time.monotonic() - began, failed=False)
        return results


def _has_no_elements(inputs: Arrays) -> bool:
    return bool(inputs) and not any(array.size for array in inputs.values())
