"""What comes with a request beside its message, and how a request waits for its answer."""

from dataclasses import dataclass

from headrace_batching import LoopDelivery, Priority, Scheduler, Task
from headrace_batching.task import Arrays
from headrace_server.models.trace import CURRENT


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """A request's place in a sequence of requests to a stateful model.

    Attributes:
        id: The sequence's, a number or a text.
        start: Whether it begins here, with the initial state.
        end: Whether it ends here, and its state is forgotten.
    """

    id: int | str
    start: bool = False
    end: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """What comes with a request beside its message.

    Attributes:
        delivery: Resolves futures of the event loop in which the caller waits.
        deadline: On the monotonic clock, in seconds; None for none.
        priority: Whether it goes before or after the others that wait.
        api: The method's name, for metrics.
        sequence: Where in which sequence the request is; None for in none.
        metadata: What the caller of a stream sent beside its messages; empty for any other call.
    """

    delivery: LoopDelivery
    deadline: float | None = None
    priority: Priority = Priority.NORMAL
    api: str = "Predict"
    sequence: SequenceStep | None = None
    metadata: tuple[tuple[str, str | bytes], ...] = ()

    def alone(self, inputs: Arrays, choice: tuple[str, ...] | None = None) -> Task:
        """The request as a task that shares its run with no other.

        Args:
            inputs: By alias.
            choice: Aliases of the outputs wanted; None for all.
        """
        return Task(inputs, self.delivery, rows=1, deadline=self.deadline, priority=self.priority, choice=choice)

    async def answer(self, task: Task, scheduler: Scheduler) -> Arrays:
        """Puts a task into a queue and waits for its outputs; whoever stops waiting cancels the task.

        Raises:
            ServingError: The backend refused.
            BatchingError: The queue did.
        """
        future = self.delivery.submit(scheduler, task)
        try:
            return await future
        finally:
            if not task.ended:
                task.cancel()
            if (trace := CURRENT.get()) is not None:
                trace.arrivals.append(task.arrived)
