"""Stateful models: the server keeps what a model outputs as its state, and passes it to the sequence's next request.

The codes and texts are those of Triton's sequence batcher. The requests of one sequence run one after the other; those
of different sequences share batches like any others.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_protos import Code, DataType
from headrace_protos.tensor import dtype_name
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.config.model_toml import SequenceOptions, StateOptions
from headrace_server.errors import ServingError, invalid
from headrace_server.models.call import SequenceStep

Run = Callable[[Arrays, tuple[str, ...]], Awaitable[Arrays]]
Clock = Callable[[], float]
_Key = tuple[str, int | str]  # the owner of a sequence, and the ID that it has given it


@dataclass(slots=True)
class _Sequence:
    """One sequence: its state (an array for each input that takes one), its last use, and whether it has ended."""

    state: Arrays
    rows: int
    used: float
    ended: bool = False
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sequences:
    """The sequences of one version of a stateful model. In one event loop.

    Args:
        model: The model's name, for errors.
        signature: The model's own signature, with the inputs and outputs of its state.
        states: How each output of the state is kept, by the output's alias.
        options: The maximum number of sequences, and how long they are kept.
        clock: Returns the time, in seconds.

    Raises:
        ServingError: INVALID_ARGUMENT if the model does not have this state.
    """

    def __init__(
        self,
        model: str,
        signature: Signature,
        states: Mapping[str, StateOptions],
        options: SequenceOptions,
        clock: Clock,
    ) -> None:
        self.options = options
        self.states = dict(states)
        self._model = model
        self._full = signature
        self._clock = clock
        self._initial = {own.input: _constant(_initial(alias, own, signature)) for alias, own in states.items()}
        self._kept: OrderedDict[_Key, _Sequence] = OrderedDict()  # the most recently used is at the end

    @property
    def signature(self) -> Signature:
        """The signature that callers see, without the state."""
        inputs = {alias: spec for alias, spec in self._full.inputs.items() if alias not in self._initial}
        outputs = {alias: spec for alias, spec in self._full.outputs.items() if alias not in self.states}
        return replace(self._full, inputs=inputs, outputs=outputs)

    @property
    def open(self) -> bool:
        """Whether any sequence has begun and not ended. Any thread."""
        return bool(self._kept)

    async def run(
        self, step: SequenceStep | None, inputs: Arrays, outputs: tuple[str, ...], run: Run, owner: str = ""
    ) -> Arrays:
        """Runs one step of a sequence; a request without a sequence is a sequence of one step.

        Args:
            step: The request's sequence and its place in it; None if it has none.
            inputs: The inputs without the state.
            outputs: The aliases of the wanted outputs.
            run: Computes outputs from inputs, where both include the state.
            owner: The name of the caller, who can continue only sequences of its own; empty if callers are not checked.

        Raises:
            ServingError: INVALID_ARGUMENT if the sequence has not begun, or a step has a different number of rows than
                the one before; UNAVAILABLE if there are too many sequences; or the error of the run, after which the
                state is unchanged.
        """
        rows = self._rows(inputs)
        if step is None:
            return await self._run(self._begin(rows), inputs, outputs, run)
        key = owner, step.id
        sequence = self._find(step, key, rows)
        async with sequence.turn:
            if sequence.ended:  # while this step waited
                raise self._unbegun(step)
            if rows != sequence.rows:
                raise invalid(f"a sequence of model '{self._model}' had {sequence.rows} rows and now has {rows}")
            try:
                return await self._run(sequence, inputs, outputs, run)
            finally:
                sequence.used = self._clock()
                sequence.ended = step.end
                if step.end and self._kept.get(key) is sequence:
                    del self._kept[key]

    async def _run(self, sequence: _Sequence, inputs: Arrays, outputs: tuple[str, ...], run: Run) -> Arrays:
        results = await run({**inputs, **sequence.state}, (*outputs, *self.states))
        # copies, since a view would keep the whole batch in memory
        sequence.state = {own.input: _constant(results[alias].copy()) for alias, own in self.states.items()}
        return {alias: results[alias] for alias in outputs}

    def _find(self, step: SequenceStep, key: _Key, rows: int) -> _Sequence:
        self._drop_idle()
        if step.start:
            self._kept.pop(key, None)
            if len(self._kept) >= self.options.max_sequences:
                text = f"model '{self._model}' has {len(self._kept)} sequences, which is the maximum"
                raise ServingError(Code.UNAVAILABLE, text)
            self._kept[key] = self._begin(rows)
        elif key not in self._kept:
            raise self._unbegun(step)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _unbegun(self, step: SequenceStep) -> ServingError:
        return invalid(
            f"inference request for sequence {step.id} to model '{self._model}' must specify the START flag on the "
            "first request of the sequence"
        )

    def _drop_idle(self) -> None:
        """Forgets sequences that have been unused for too long; one that is in use is not idle."""
        before = self._clock() - self.options.idle_seconds
        while self._kept:
            oldest = next(iter(self._kept.values()))
            if oldest.used > before or oldest.turn.locked():
                return
            self._kept.popitem(last=False)

    def _begin(self, rows: int) -> _Sequence:
        initial = {
            alias: _constant(np.repeat(array[None], rows, axis=0)) if self._full.batched else array
            for alias, array in self._initial.items()
        }
        return _Sequence(initial, rows, self._clock())

    def _rows(self, inputs: Arrays) -> int:
        return len(next(iter(inputs.values()))) if self._full.batched and inputs else 1


def _constant(array: Array) -> Array:
    """The array, made read-only: a Python model in this process, which may write into its inputs, gets a copy."""
    array.flags.writeable = False
    return array


def _initial(alias: str, own: StateOptions, signature: Signature) -> Array:
    """The state of a new sequence: one row, if the model batches."""
    where = f"state.{alias}"
    if alias not in signature.outputs:
        raise invalid(f"{where}: the model has no output {alias}; it has {', '.join(signature.outputs)}")
    if own.input not in signature.inputs:
        raise invalid(f"{where}.input: the model has no input {own.input}; it has {', '.join(signature.inputs)}")
    made, taken = signature.outputs[alias], signature.inputs[own.input]
    if made.dtype != taken.dtype:
        raise invalid(f"{where}: the output is {dtype_name(made.dtype)}, but the input is {dtype_name(taken.dtype)}")
    shape = _shape(where, own, taken, batched=signature.batched)
    if taken.dtype == DataType.DT_STRING:
        return np.full(shape, b"", object)
    return np.full(shape, own.initial, taken.array_dtype)


def _shape(where: str, own: StateOptions, spec: TensorSpec, *, batched: bool) -> tuple[int, ...]:
    declared = spec.shape[1:] if batched else spec.shape
    if own.shape:
        pairs = zip(own.shape, declared, strict=False)
        if len(own.shape) != len(declared) or any(want is not None and got != want for got, want in pairs):
            raise invalid(f"{where}.shape: the input {own.input} does not accept {list(own.shape)}")
        return own.shape
    if None in declared:
        raise invalid(f"{where}.shape must be given, because the shape of the input {own.input} varies")
    return tuple(size for size in declared if size is not None)
