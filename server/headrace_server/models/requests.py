"""How a request that fits its signature runs: in a batch with others if possible, otherwise alone."""

from collections.abc import Mapping

from headrace_batching import Options, Task
from headrace_batching.batch import shared_rows
from headrace_batching.task import Arrays
from headrace_server.backends.signature import Signature
from headrace_server.models.call import Call
from headrace_server.models.no_rows import NoRows, has_no_rows
from headrace_server.models.schedulers import Outputs, Schedulers, may_share


class Requests:
    """Runs the requests of one version, whose dtypes and shapes have been checked.

    Args:
        signatures: The version's signatures, by name.
        schedulers: The queues in which requests wait.
        batching: How requests become batches, adapted to the backend; None runs every request alone.
    """

    def __init__(self, signatures: Mapping[str, Signature], schedulers: Schedulers, batching: Options | None) -> None:
        self._signatures = signatures
        self._schedulers = schedulers
        self._batching = batching
        self._no_rows = NoRows()

    async def run(self, signature: str, inputs: Arrays, outputs: Outputs, call: Call) -> Arrays:
        """Computes the outputs of one request.

        Args:
            signature: The name of one of the signatures.
            inputs: An array for each of the signature's inputs, by alias.
            outputs: Aliases of the signature's outputs.
            call: How to deliver the answer, and the deadline.

        Raises:
            ServingError: The backend refused the request.
            BatchingError: The queue refused the request.
        """
        declared = self._signatures[signature]
        choice = None if outputs == declared.every_output else outputs
        rows = shared_rows(inputs) if declared.batched else None

        async def run(inputs: Arrays, rows: int | None = 1) -> Arrays:
            task = self._task(declared, inputs, rows, choice, call)
            return await call.answer(task, self._schedulers.of(signature))

        if declared.optional and declared.sends_optional(inputs):
            return await call.answer(call.alone(inputs, choice), self._schedulers.of(signature, alone=True))
        if not rows and has_no_rows(declared, inputs):
            return await self._no_rows.answer(signature, declared, inputs, outputs, run)
        if declared.batched and not self._may_share(declared, inputs, rows):
            return await call.answer(call.alone(inputs, choice), self._schedulers.of(signature, alone=True))
        return await run(inputs, rows)

    def _may_share(self, declared: Signature, inputs: Arrays, rows: int | None) -> bool:
        """Whether a request of a batched signature can be in a batch; otherwise it runs alone."""
        if not declared.is_as_declared(inputs) or not declared.is_bounded(inputs):
            return False
        return self._batching is None or may_share(inputs, rows, self._batching)

    def _task(self, signature: Signature, inputs: Arrays, rows: int | None, choice: Outputs | None, call: Call) -> Task:
        batching = self._batching
        if batching is None or rows is None:
            return call.alone(inputs, choice)
        return Task(
            inputs,
            call.delivery,
            rows=rows,
            key=signature.shape_key(inputs, pad=batching.pad_variable_length_inputs),
            deadline=call.deadline,
            priority=call.priority,
            choice=choice,
            padding=signature.padding,
        )
