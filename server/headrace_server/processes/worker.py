"""One worker process, as seen by the server: started, asked to load a model, and ended."""

import logging
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from threading import Event, Thread

from headrace_batching import Options
from headrace_protos import Code
from headrace_server.errors import LoadError
from headrace_server.processes import memory_file
from headrace_server.processes.job import Job, Loaded
from headrace_server.processes.shared_memory import OwnedMemory
from headrace_server.processes.slot import Ended, Message, Slot
from headrace_server.processes.streams import WorkerStreams

log = logging.getLogger(__name__)

CHILD = "headrace_server.processes.worker_child"

CLOSE_WITHIN = 5.0
"""Seconds that a model's own `close` may take."""

ENDS_WITHIN = 0.5
"""Seconds between the end of a process's sockets and its own end."""

MAX_LINE = 8 << 10
"""The maximum number of bytes of a model's output that are logged as one line."""

_ALLOCATOR = {"MIMALLOC_ARENA_EAGER_COMMIT": "0"}
"""Keeps headrace-native's allocator from committing the gigabyte that it reserves: it would count as the model's."""


class Worker:
    """A process with a model. Its output is logged under the model's name.

    Args:
        name: The model's name, for the log.
        memory: Holds the inputs of its runs.

    Raises:
        OSError, RuntimeError: The system has no process, descriptor or thread left.
    """

    def __init__(self, name: str, memory: OwnedMemory) -> None:
        self._name = name
        self._memory = memory
        self._lifeline = -1
        self._slots: list[Slot] = []
        self.ended = Event()
        self._process = self._start()
        self._file = _process_file(self._process.pid)
        self._logger = Thread(target=self._log, name=f"worker-log-{name}", daemon=True)
        try:
            self._logger.start()
        except RuntimeError:  # the system has no thread left
            self._abandon()
            raise

    @property
    def pid(self) -> int:
        """The process's ID."""
        return self._process.pid

    @property
    def first(self) -> Slot:
        """The slot through which it is asked to load."""
        return self._slots[0]

    def load(self, job: Job) -> Loaded:
        """Loads a model in the process.

        Raises:
            LoadError: The model cannot be loaded, or has crashed the process.
        """
        file = memory_file.pack(job)
        try:
            self.first.send("load", descriptors=[file])
            message = self.first.receive()
        except Ended as error:
            raise LoadError(Code.INTERNAL, f"{job.folder}: its worker process {self.how_it_ended()}") from error
        finally:
            os.close(file)
        if message.kind == "failed":
            raise LoadError(*message.content[:2])
        try:
            loaded: Loaded = memory_file.unpack(message.descriptors[0])
        finally:
            _close(message)
        return loaded

    def open_slot(self) -> Slot:
        """Creates a slot for one more run at the same time.

        Raises:
            Ended: The process has ended.
        """
        slot = Slot(self.first.connect("slot"), self._memory)
        self._slots.append(slot)
        return slot

    def open_streams(self) -> WorkerStreams:
        """Opens a connection for requests with streamed answers, if the model streams.

        Raises:
            Ended: The process has ended.
        """
        return WorkerStreams(self.first.connect("streams"), self._memory)

    def close(self) -> None:
        """Closes the model, and ends the process; none of its slots may be in use."""
        with suppress(OSError):  # the process has ended, or does not answer
            self.first.send("close")
            self.first.receive(CLOSE_WITHIN)
        self.kill()

    def kill(self) -> None:
        """Ends the process and its children, whatever they are doing."""
        if self.ended.is_set():
            return  # the group's number may belong to other processes by now
        with suppress(ProcessLookupError):  # nothing of the process is left
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self) -> None:
        """Returns when the process and its children have ended."""
        self._wait_for_end()
        self._process.wait()
        self._end_slots()
        self.kill()  # children that the process left behind
        self.ended.set()
        os.close(self._lifeline)
        self._logger.join(1.0)

    def _wait_for_end(self) -> None:
        """Returns when the process has ended, or is being ended because it no longer listens to its first slot.

        Without a descriptor of the process, returns at once.
        """
        if self._file < 0:
            return
        poll = select.poll()
        poll.register(self._file, select.POLLIN)
        listens = self.first.descriptor
        if listens >= 0:
            poll.register(listens, 0)  # reports only that the other side has closed it
        poll.poll()
        if listens >= 0:
            poll.unregister(listens)
        self._end_slots()
        if not poll.poll(ENDS_WITHIN * 1000):
            self.kill()
        os.close(self._file)

    def _end_slots(self) -> None:
        for slot in self._slots:
            slot.end()

    def close_slots(self) -> None:
        """Closes the process's slots, if nothing else uses them."""
        for slot in self._slots:
            slot.close()

    def how_it_ended(self) -> str:
        """How the process ended, such as "was ended by SIGSEGV"; ends it first if it still runs without its socket."""
        if not self.ended.wait(ENDS_WITHIN):
            self.kill()
        status = self._process.wait()
        if status >= 0:
            return f"ended with status {status}"
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-status).name}"
        return f"was ended by signal {-status}"

    def _start(self) -> "subprocess.Popen[bytes]":
        ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self._slots.append(Slot(ours, self._memory))
        with theirs, ExitStack() as undo:
            undo.callback(self.close_slots)
            lifeline, self._lifeline = os.pipe()
            undo.callback(os.close, self._lifeline)
            # -P: nothing is imported from the working directory, where other users may have put it.
            command = [sys.executable, "-P", "-m", CHILD, str(theirs.fileno()), str(lifeline)]
            try:
                process = subprocess.Popen(
                    command,
                    pass_fds=[theirs.fileno(), lifeline],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env=_environment(),
                    # The process has a group of its own, since a Ctrl-C at the terminal is meant for the server. The
                    # group is in the server's session, because Linux may give sessions equal shares of the CPU,
                    # whatever the nice values of their processes.
                    process_group=0,
                )
            finally:
                os.close(lifeline)
            undo.pop_all()
        return process

    def _abandon(self) -> None:
        """Ends a process whose output nobody reads."""
        self.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        if self._file >= 0:
            os.close(self._file)
        os.close(self._lifeline)
        self.close_slots()

    def _log(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            while line := output.readline(MAX_LINE):
                log.info("%s: %s", self._name, line.rstrip(b"\r\n").decode(errors="replace"))


def fit_batching(slot: Slot, options: Options) -> Options:
    """Asks the model's own `fit_batching` for the parameters.

    Raises:
        Ended: The process has ended.
    """
    slot.send("fit", options)
    fitted: Options = slot.receive().content[0]
    return fitted


def _process_file(pid: int) -> int:
    """A descriptor that is readable when a process has ended; -1 if the kernel has none, or a sandbox allows none."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1


def _environment() -> dict[str, str]:
    """This process's environment, without the settings that would import modules from the working directory.

    `_ALLOCATOR` is added.
    """
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = os.pathsep.join(folder for folder in folders if os.path.isabs(folder))
    return {**_ALLOCATOR, **os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _close(message: Message) -> None:
    for descriptor in message.descriptors:
        os.close(descriptor)
