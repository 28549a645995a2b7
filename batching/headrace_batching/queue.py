"""The bounded queue that hands out batches of tasks: any thread may add tasks, and batch threads take them."""

import time
from collections.abc import Hashable
from math import inf
from threading import TIMEOUT_MAX, Condition, Lock
from typing import NamedTuple

from headrace_batching.batch import Batch, deliver
from headrace_batching.contract import Clock, Execute
from headrace_batching.errors import (
    TOO_MANY_BATCHES,
    TOO_MANY_ROWS,
    Closed,
    DeadlineExceeded,
    ObjectiveMissed,
    QueueFull,
)
from headrace_batching.group import Group
from headrace_batching.latency.target import Slots, Target, makes_it
from headrace_batching.options import Options
from headrace_batching.policy import choose
from headrace_batching.task import Task


class Lane:
    """One scheduler's part of a queue: its options, its bound, and its tasks in groups that may share a batch.

    Args:
        queue: The queue that the lane is a part of.
        options: The batching options.
        execute: Runs a batch, on a batch thread.
        batched: Whether axis 0 is the batch axis.

    Attributes:
        target: The size and wait to use instead of the options'; None means the options'.
        shed: The number of tasks that were refused because they could not be answered in time.
    """

    def __init__(self, queue: "Queue", options: Options, execute: Execute, *, batched: bool = True) -> None:
        self.options = options
        self.execute = execute
        self.batched = batched
        self.groups: dict[Hashable, Group] = {}
        self.rows = 0
        self.running = 0
        self.closed = False
        self.target: Target | None = None
        self.shed = 0
        self._slots = Slots(options.batches_at_once)
        self._queue = queue

    @property
    def idle(self) -> bool:
        """Whether none of the lane's tasks waits or runs."""
        return not self.groups and not self.running

    @property
    def free(self) -> bool:
        """Whether one more of the lane's batches may run."""
        most = self.options.max_running_batches
        return most is None or self.running < most

    def check_bound(self, rows: int) -> None:
        """Refuses a task if, with it, more rows would wait in all groups together than may wait in one group.

        Raises:
            QueueFull: There is no room for `rows` more rows.
        """
        size, most = self.options.execution_limit, self.options.enqueued_limit
        capacity = most * size - self.rows
        if rows <= capacity:
            return
        waiting = max(1, -(-self.rows // size))
        if not self.options.enable_large_batch_splitting:
            raise QueueFull(TOO_MANY_BATCHES.format(waiting=waiting, most=most))
        begun = self.rows - (waiting - 1) * size
        raise QueueFull(
            TOO_MANY_ROWS.format(rows=rows, capacity=capacity, waiting=waiting, most=most, open=begun, size=size)
        )

    def check_objective(self, rows: int, now: float) -> None:
        """Refuses a task that could not be answered in time.

        Raises:
            ObjectiveMissed: The task could not be answered in time.
        """
        if self.target is not None and not makes_it(self.target, self._slots, now, self.rows, rows):
            self.shed += 1
            raise ObjectiveMissed(self.options.latency_objective)

    def begin(self, rows: int, now: float) -> None:
        """Records that one of the lane's batches has left the queue. Under the queue's lock."""
        self.running += 1
        if self.target is not None:
            self._slots.begin(now, self.target.run_of(rows))

    def end(self) -> None:
        """Records that one of the lane's batches has ended. Under the queue's lock."""
        self.running -= 1
        self._slots.end()

    def steer(self, target: Target) -> None:
        """Sets the target by which batches are formed and tasks accepted from now on. Any thread."""
        self._queue.steer(self, target)

    def put(self, task: Task) -> bool:
        """Adds a task, or refuses it immediately. Any thread.

        Returns: Whether the queue's `wake` must be called, so that an idle thread looks at it.

        Raises:
            Closed: The lane or the queue accepts no more tasks.
            QueueFull: There is no room for the task.
            ObjectiveMissed: The task could not be answered in time.
        """
        return self._queue.put(self, task)

    def finish(self) -> None:
        """Records that one of the lane's batches has ended."""
        self._queue.finish(self)

    def close(self) -> None:
        """Accepts no more tasks, runs the waiting ones immediately, and returns when the last batch has ended."""
        self._queue.close_lane(self)


class Formed(NamedTuple):
    """A batch that has left the queue, and the lane that runs it."""

    batch: Batch
    lane: Lane


class Turn(NamedTuple):
    """The result of one look at the queue: a batch or the time to look again, and the tasks that have expired."""

    formed: Formed | None
    expired: list[Task]
    wake: float


class Queue:
    """A queue of tasks of any number of schedulers, which share its batch threads.

    A batch forms only when a thread asks for it, so it contains all tasks that have arrived by then. Groups take turns,
    so that a busy model cannot starve a quiet one.

    Args:
        clock: The clock of tasks' deadlines, in seconds.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self.lock = Lock()
        self._asleep: list[Condition] = []  # a condition for each idle thread, the most recent one last
        self._drained = Condition(self.lock)
        self._groups: dict[Group, Lane] = {}
        self._idle = 0
        self._closed = False

    @property
    def idle(self) -> int:
        """The number of threads that wait for a batch."""
        return self._idle

    def lane(
        self,
        options: Options,
        execute: Execute,
        *,
        batched: bool = True,
        steady: bool = False,  # noqa: ARG002 - only headrace_native's queue uses it
    ) -> Lane:
        """Creates a scheduler's part of the queue; the arguments are those of `Lane`."""
        return Lane(self, options, execute, batched=batched)

    def put(self, lane: Lane, task: Task) -> bool:
        """See `Lane.put`."""
        with self.lock:
            if lane.closed or self._closed:
                raise Closed
            rows, now = task.rows or 1, self.clock()
            lane.check_bound(rows)
            lane.check_objective(rows, now)
            group = lane.groups.get(task.key)
            new = group is None
            if group is None:
                group = Group(task.key, lane.options, lambda: lane.target)
            task.arrived = now
            group.add(task)
            if new:
                lane.groups[task.key] = group
                self._groups[group] = lane
            lane.rows += rows
            # A thread has already been woken for this group unless the group is new, or fills one more batch.
            return self._idle > 0 and (new or group.full) and lane.free

    def wake(self) -> None:
        """Wakes an idle thread to look at the added tasks."""
        with self.lock:
            self._call_one()

    def take(self) -> Formed | None:
        """Waits for a batch, with the lock released; None once the queue is closed and empty. Batch threads only."""
        while True:
            with self.lock:
                now = self.clock()
                turn = self.turn(now)
                if turn.formed is None and turn.wake > now:
                    if self._closed and not self._groups:
                        return None
                    self._wait(turn.wake)
            deliver(turn.expired)
            if turn.formed is not None:
                return turn.formed

    def turn(self, now: float) -> Turn:
        """One look at the queue at time `now`, under its lock: removes and returns the batch that is due, if any."""
        # If a lane is not free, it is checked again by the thread that ends one of its batches.
        group, wake = choose((group for group, lane in self._groups.items() if lane.free), now)
        if group is None:
            return Turn(None, [], wake)
        lane = self._groups.pop(group)
        before = group.rows
        pieces, dropped = group.take(now)
        expired = _expire(dropped)
        lane.rows -= before - group.rows
        if group:
            self._groups[group] = lane  # put after all others, since groups take turns
        else:
            del lane.groups[group.key]
        if not pieces:
            self._drained.notify_all()
            self._notify_other()
            return Turn(None, expired, wake)
        batch = Batch(pieces, lane.options, batched=lane.batched)
        lane.begin(batch.rows, now)
        self._notify_other()
        return Turn(Formed(batch, lane), expired, wake)

    def finish(self, lane: Lane) -> None:
        """See `Lane.finish`."""
        with self.lock:
            lane.end()
            self._drained.notify_all()
            if self._closed:
                self._call_all()  # threads that waited for the lane now take its last batch, or end

    def steer(self, lane: Lane, target: Target) -> None:
        """See `Lane.steer`."""
        with self.lock:
            lane.target = target
            if self._idle and lane.groups:
                self._call_one()  # a batch may be due earlier than the idle threads expect

    def close_lane(self, lane: Lane) -> None:
        """See `Lane.close`."""
        with self.lock:
            lane.closed = True
            for group in lane.groups.values():
                group.closing = True
            self._call_all()
            self._drained.wait_for(lambda: lane.idle)

    def close(self) -> None:
        """Accepts no more tasks on any lane; `take` returns the waiting tasks without delay, and then None."""
        with self.lock:
            self._closed = True
            for group in self._groups:
                group.closing = True
            self._call_all()

    def _notify_other(self) -> None:
        """Wakes another thread if the rest of the queue may form a batch."""
        if self._idle and any(lane.free for lane in self._groups.values()):
            self._call_one()

    def _call_one(self) -> None:
        """Wakes the thread that fell asleep last: its core is awake, and its data are in the caches."""
        if self._asleep:
            self._asleep.pop().notify()

    def _call_all(self) -> None:
        while self._asleep:
            self._call_one()

    def _wait(self, wake: float) -> None:
        bell = Condition(self.lock)
        self._idle += 1
        self._asleep.append(bell)
        bell.wait(None if wake == inf else min(max(0.0, wake - self.clock()), TIMEOUT_MAX))
        if bell in self._asleep:  # no other thread has woken it
            self._asleep.remove(bell)
        self._idle -= 1


def _expire(dropped: list[Task]) -> list[Task]:
    """Ends and returns the tasks whose deadline has passed; cancelled and ended ones are only dropped."""
    expired = [task for task in dropped if not task.ended and not task.cancelled]
    for task in expired:
        task.error = DeadlineExceeded()
    return expired
