"""A process that runs one model, so that whatever the model does to its process affects no other model."""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Thread

from headrace_batching.errors import let_go
from headrace_batching.task import Arrays
from headrace_protos import Code
from headrace_server.backends import auto as backends
from headrace_server.backends.base import Backend, FitsBatching, NamesRuntime, Streaming, Triable
from headrace_server.errors import ServingError, status_of
from headrace_server.processes import memory_file
from headrace_server.processes.child import end_with_server, limit_data, limit_data_to, lower_priority
from headrace_server.processes.job import Job, Loaded
from headrace_server.processes.lending import Lender, kept, views
from headrace_server.processes.shared_memory import OwnedMemory
from headrace_server.processes.slot import LINK, MAX_TEXT, Ended, Message, Slot
from headrace_server.processes.streams_child import serve_streams

Run = Callable[[str, Arrays, Sequence[str]], Arrays]

OUT_OF_MEMORY = 75
"""The status of a process that ends because its model ran out of memory: leaked memory is freed with the process."""


def main() -> None:
    """Loads the model that the first message names, and runs it until the server has ended."""
    end_with_server(int(sys.argv[2]))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server handles them
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    with suppress(Ended):
        _serve_first(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)  # at once, without waiting for threads that the model has started


def _serve_first(connection: socket.socket) -> None:
    connection.set_inheritable(False)  # a program that the model starts must not keep it open
    slot = _Conversation(connection)
    message = slot.slot.receive()
    job: Job = memory_file.unpack(message.descriptors[0])
    os.close(message.descriptors[0])
    try:
        if job.memory_limit:
            limit_data_to(job.memory_limit)
        backend = backends.load(job.folder, job.options)
        if job.headroom:
            limit_data(job.headroom)
    except BaseException as error:  # a model may call sys.exit
        _fail(slot.slot, error)
        return
    lower_priority()  # not earlier: calls wait while the process of a model starts
    loaded = memory_file.pack(_described(backend))
    slot.slot.send("loaded", descriptors=[loaded])
    os.close(loaded)
    slot.serve(backend)


def _described(backend: Backend) -> Loaded:
    runtime = backend.runtime if isinstance(backend, NamesRuntime) else ""
    loaded = Loaded(dict(backend.signatures), runtime)
    if isinstance(backend, Streaming):
        loaded = replace(loaded, streams=backend.streams, answers_once=backend.answers_once)
    if isinstance(backend, Triable):
        loaded = replace(loaded, evidence=tuple(backend.evidence), hints=backend.hints)
        loaded = replace(loaded, exact=backend.exact, most_rows=backend.most_rows)
    return loaded


class _Conversation:
    """Answers the messages of one slot; each concurrent run has a slot and a thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._outputs = OwnedMemory()
        self._lender = Lender()
        self.slot = Slot(connection, self._outputs)

    def serve(self, backend: Backend) -> None:
        """Answers the slot's messages until the server closes the backend.

        Raises:
            Ended: The server has ended.
        """
        run = backend.run
        try_run = backend.try_run if isinstance(backend, Triable) else run
        while True:
            message = self.slot.receive()
            kind, content, descriptors = message.kind, message.content, message.descriptors
            if kind == "run":
                self._run(run, message)
            elif kind == "try":
                self._run(try_run, message)
            elif kind == "fit":
                fitted = backend.fit_batching(content[0]) if isinstance(backend, FitsBatching) else content[0]
                self.slot.send("fitted", fitted)
            elif kind == LINK:
                self.slot.accept_link(message)
            elif kind == "slot":
                _begin(_serve_another, socket.socket(fileno=descriptors[0]), backend)
            elif kind == "streams":
                _begin(serve_streams, socket.socket(fileno=descriptors[0]), backend, _fail)
            else:
                backend.close()
                return

    def _run(self, run: Run, message: Message) -> None:
        signature, outputs, returned = message.content
        self._lender.give_back(returned)
        inputs = views(message, self.slot.mapped)
        try:
            placed, held = self._outputs.place(run(signature, inputs, outputs))
        except BaseException as error:  # a model that calls sys.exit fails its batch, but ends nothing else
            inputs = {}
            let_go(error)
            _fail(self.slot, error, kept(message))
            return
        del inputs
        still_used = kept(message)
        number = self._lender.lend(held)
        try:
            self.slot.send("ran", number, still_used, placed=placed)
        except ServingError as error:
            self._lender.give_back((number,))
            _fail(self.slot, error, still_used)


def _begin(serve: Callable[..., None], *arguments: object) -> None:
    Thread(target=serve, args=arguments, daemon=True).start()


def _fail(slot: Slot, error: BaseException, still_used: Sequence[str] = ()) -> None:
    """Reports that a request has failed, and which inputs were kept; ends the process if memory has run out."""
    code, text = _status(error)
    slot.send("failed", int(code), text[:MAX_TEXT], _is_out_of_memory(error), still_used)
    if _is_out_of_memory(error):
        os._exit(OUT_OF_MEMORY)


def _serve_another(connection: socket.socket, backend: Backend) -> None:
    conversation = _Conversation(connection)
    try:
        with suppress(Ended):
            conversation.serve(backend)
    finally:
        conversation.slot.close()


def _status(error: BaseException) -> tuple[Code, str]:
    if _is_out_of_memory(error):
        return Code.RESOURCE_EXHAUSTED, f"its worker process is out of memory: {error}"
    if isinstance(error, Exception):
        return status_of(error)
    return Code.INTERNAL, f"the model raised {error!r}"


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError)


if __name__ == "__main__":
    main()
