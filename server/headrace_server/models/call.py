"""The data of a request besides its message, and how a request waits for its answer."""

from dataclasses import dataclass

from headrace_batching import LoopDelivery, Priority, Scheduler, Task
from headrace_batching.task import Arrays
from headrace_server.models.trace import CURRENT


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """A request's place in a sequence of requests to a stateful model.

    Attributes:
        id: The sequence's ID, a number or a string.
        start: Whether the sequence begins here, with the initial state.
        end: Whether the sequence ends here, and its state is forgotten.
    """

    id: int | str
    start: bool = False
    end: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """The data of a request besides its message.

    Attributes:
        delivery: Resolves futures of the event loop in which the caller waits.
        deadline: The deadline on the monotonic clock, in seconds; None if there is none.
        priority: Whether the request runs before or after others that wait.
        api: The method's name, for metrics.
        sequence: The request's sequence and its place in it; None if it has none.
        metadata: The metadata that the caller of a stream sent; empty for any other call.
    """

    delivery: LoopDelivery
    deadline: float | None = None
    priority: Priority = Priority.NORMAL
    api: str = "Predict"
    sequence: SequenceStep | None = None
    metadata: tuple[tuple[str, str | bytes], ...] = ()

    def alone(self, inputs: Arrays, choice: tuple[str, ...] | None = None) -> Task:
        """The request as a task that shares its run with no other request.

        Args:
            inputs: Arrays by alias.
            choice: The aliases of the wanted outputs; None means all outputs.
        """
        return Task(inputs, self.delivery, rows=1, deadline=self.deadline, priority=self.priority, choice=choice)

    async def answer(self, task: Task, scheduler: Scheduler) -> Arrays:
        """Puts a task into a queue and waits for its outputs; if the wait is cancelled, so is the task.

        Raises:
            ServingError: The backend refused the request.
            BatchingError: The queue refused the request.
        """
        trace = CURRENT.get()
        task.traced = trace is not None
        future = self.delivery.submit(scheduler, task)
        try:
            return await future
        finally:
            if not task.ended:
                task.cancel()
            if trace is not None:
                trace.arrivals = (*trace.arrivals, task.arrived)
