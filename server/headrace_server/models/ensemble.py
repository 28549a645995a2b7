"""Models composed of other models: arrays pass between steps in the process, and each step is batched.

A step is a call of another model. It takes arrays by name, from the request or from other steps, and produces arrays by
name. An array that no step produces is an input of the ensemble; one that no step takes is an output.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

from headrace_batching import Options
from headrace_batching.task import Array, Arrays
from headrace_protos import Code
from headrace_protos.tensor import dtype_name
from headrace_server.backends.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from headrace_server.config.model_toml import MODEL_FILE, StepOptions, read_model_options
from headrace_server.errors import LoadError, NotInMemory, ServingError, invalid
from headrace_server.models.call import Call
from headrace_server.tasks import end_all

RUNTIME = "ensemble"


class Member(Protocol):
    """A servable, as seen by a step."""

    @property
    def batching(self) -> Options | None:
        """How the servable's requests become batches."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The servable's signatures, by name."""

    async def run(self, signature: str, inputs: Arrays, outputs: tuple[str, ...], call: Call) -> Arrays:
        """Computes the outputs of one request."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


@dataclass(frozen=True, slots=True)
class Members:
    """The access of an ensemble to other models.

    Attributes:
        find: Leases the servable of a name and a version, where None means the latest.
        lease: Like `find`, but first waits for a version that is not in memory, until a call's deadline.
        wake: Begins to load a version that is not in memory, without waiting for it.
        base_path: Returns the configured base path of a model; None for a model that is not configured.
        is_awaited: Whether a model that has no version yet may have one soon.
    """

    find: Callable[[str, int | None], Member]
    lease: Callable[[str, int | None, float | None], Awaitable[Member]]
    wake: Callable[[str, int | None], object]
    base_path: Callable[[str], Path | None]
    is_awaited: Callable[[str], bool]


class Unready(ServingError):
    """Raised for a version that can be loaded only after other models."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.UNAVAILABLE, message)


class Ensemble:
    """A model composed of steps: what a servable needs from a backend, and a run that waits for the steps' batches.

    Args:
        steps: The steps, in any order.
        members: Finds the models of the steps.
        signature: The signature of the whole ensemble.
        batching: The limits on a request's size; None if the steps do not batch.
    """

    runtime = RUNTIME

    def __init__(
        self, steps: Sequence[StepOptions], members: Members, signature: Signature, batching: Options | None
    ) -> None:
        self.steps = tuple(steps)
        self.batching = batching
        self._members = members
        self._signature = signature
        self._makers = {name: step for step in steps for name in step.outputs.values()}

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """`serving_default` alone."""
        return {DEFAULT_SIGNATURE: self._signature}

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Always refuses: a thread that runs batches must not wait for other batches."""
        raise ServingError(Code.INTERNAL, f"an ensemble has no runs of its own: {signature}, {inputs}, {outputs}")

    async def run_steps(self, inputs: Arrays, outputs: Sequence[str], call: Call) -> Arrays:
        """Computes the outputs of one request; steps that do not depend on each other run at the same time.

        Args:
            inputs: Arrays by name that fit the signature.
            outputs: The wanted outputs; steps that they do not need are not run.
            call: How to deliver the answer, and the deadline.

        Raises:
            ServingError: A step's model is missing or has failed; the text names it.
            BatchingError: A step's queue refused the request.
        """
        run = _Run(self._members, self._makers, inputs, call)
        try:
            run.begin(outputs)
            return {name: await run.array(name) for name in outputs}
        except BaseException:
            await run.close()
            raise

    def close(self) -> None:
        """Does nothing: the steps' models do not belong to the ensemble."""


class _Run:
    """One request on its way through the steps."""

    def __init__(self, members: Members, makers: Mapping[str, StepOptions], inputs: Arrays, call: Call) -> None:
        self._members = members
        self._makers = makers
        self._inputs = inputs
        self._call = call
        self._begun: dict[int, asyncio.Task[Arrays]] = {}

    def begin(self, names: Iterable[str]) -> None:
        """Begins the steps that produce these arrays, so that they run at the same time."""
        for name in names:
            if name not in self._inputs:
                self._begin(self._makers[name])

    async def array(self, name: str) -> Array:
        """Waits for an array by its name."""
        if name in self._inputs:
            return self._inputs[name]
        made = await asyncio.shield(self._begin(self._makers[name]))
        return made[name]

    async def close(self) -> None:
        """Ends what still runs, after a failure or after the caller has disconnected."""
        await end_all(self._begun.values())

    def _begin(self, step: StepOptions) -> "asyncio.Task[Arrays]":
        if id(step) not in self._begun:
            self._begun[id(step)] = asyncio.create_task(self._step(step))
        return self._begun[id(step)]

    async def _step(self, step: StepOptions) -> Arrays:
        self.begin(step.inputs.values())
        inputs = {alias: _read_only(await self.array(name)) for alias, name in step.inputs.items()}
        with await self._find(step) as member:
            results = await _run_member(member, step, inputs, self._call)
        return {name: results[alias] for alias, name in step.outputs.items()}

    async def _find(self, step: StepOptions) -> Member:
        try:
            return await self._members.lease(step.model, step.version or None, self._call.deadline)
        except ServingError as error:
            raise ServingError(Code.UNAVAILABLE, f"step model {step.model}: {error.message}") from error


def _read_only(array: Array) -> Array:
    """A read-only view, since other steps may read the same array.

    A Python model in this process gets a copy of it, because it may write into its inputs.
    """
    view = array.view()
    view.flags.writeable = False
    return view


async def _run_member(member: Member, step: StepOptions, inputs: Arrays, call: Call) -> Arrays:
    name = step.signature or DEFAULT_SIGNATURE
    signature = member.signatures.get(name)
    if signature is None:  # the model now has another version
        raise invalid(f"step model {step.model} has no signature {name}")
    wanted = tuple(alias for alias in signature.outputs if alias in step.outputs)
    try:
        return await member.run(name, signature.complete(inputs), wanted, call)
    except ServingError as error:
        raise ServingError(error.code, f"step model {step.model}: {error.message}") from error


def make_ensemble(base_path: Path, steps: Sequence[StepOptions], members: Members) -> Ensemble:
    """The ensemble that a `model.toml` describes.

    Raises:
        LoadError: INVALID_ARGUMENT if the description is invalid; the text names the file and the model or the array.
        Unready: One of its models has not been loaded yet.
    """
    where = base_path / MODEL_FILE
    try:
        _check_cycles(base_path.resolve(), steps, members, ())
        declared = [_signature(step, members) for step in steps]
        signature = _Wiring(steps, [signature for signature, _ in declared]).signature()
    except Unready:
        raise
    except ServingError as error:
        raise LoadError(error.code, f"{where}: {error.message}") from error
    sizes = [batching.max_batch_size for _, batching in declared if batching is not None]
    batched = signature.batched and len(sizes) == len(declared)
    return Ensemble(steps, members, signature, Options(max_batch_size=min(sizes)) if batched else None)


def _signature(step: StepOptions, members: Members) -> tuple[Signature, Options | None]:
    """The signature of a step's model, and the model's batching options, if it batches."""
    awaited = members.is_awaited(step.model)  # read first, since it may become false during the look-up
    try:
        with members.find(step.model, step.version or None) as member:
            name = step.signature or DEFAULT_SIGNATURE
            if name not in member.signatures:
                raise invalid(f"steps: model {step.model} has no signature {name}")
            return member.signatures[name], member.batching
    except NotInMemory as error:
        members.wake(step.model, step.version or None)
        raise Unready(f"waiting for its step model {step.model}") from error
    except ServingError as error:
        if error.code != Code.NOT_FOUND:
            raise
        if awaited or members.is_awaited(step.model):
            raise Unready(f"waiting for its step model {step.model}") from error
        raise invalid(f"steps: model {step.model} is not served: {error.message}") from error


def _check_cycles(base_path: Path, steps: Sequence[StepOptions], members: Members, above: tuple[Path, ...]) -> None:
    """Follows the steps of steps, since an ensemble must not contain itself."""
    if base_path in above:
        raise invalid(f"steps must not form a cycle: {' -> '.join(path.name for path in (*above, base_path))}")
    for step in steps:
        path = members.base_path(step.model)
        if path is None:
            raise invalid(f"steps: no model {step.model} is configured")
        path = path.resolve()
        _check_cycles(path, read_model_options(path).steps, members, (*above, base_path))


class _Wiring:
    """The arrays between the steps, and the signature that results."""

    def __init__(self, steps: Sequence[StepOptions], signatures: Sequence[Signature]) -> None:
        self._steps = list(zip(steps, signatures, strict=True))
        self._made: dict[str, tuple[StepOptions, TensorSpec]] = {}
        self._inputs: dict[str, TensorSpec] = {}
        self._taken: set[str] = set()

    def signature(self) -> Signature:
        """The signature of the ensemble."""
        for step, signature in self._steps:
            self._add_outputs(step, signature)
        for step, signature in self._steps:
            self._add_inputs(step, signature)
        outputs = {name: spec for name, (_, spec) in self._made.items() if name not in self._taken}
        if not outputs:
            raise invalid("steps: every output of a step is an input of another step, so the ensemble has no outputs")
        batched = all(signature.batched for _, signature in self._steps)
        return Signature(self._inputs, outputs, batched=batched, empty=True)

    def _add_outputs(self, step: StepOptions, signature: Signature) -> None:
        for alias, name in step.outputs.items():
            if alias not in signature.outputs:
                raise invalid(f"steps: model {step.model} has no output {alias}; it has {', '.join(signature.outputs)}")
            if name in self._made:
                raise invalid(f"steps: {name} is an output of both {self._made[name][0].model} and {step.model}")
            self._made[name] = step, replace(signature.outputs[alias], name=name)

    def _add_inputs(self, step: StepOptions, signature: Signature) -> None:
        for alias in signature.inputs:
            if alias not in step.inputs and alias not in signature.defaults:
                raise invalid(f"steps: model {step.model} needs its input {alias}")
        for alias, name in step.inputs.items():
            if alias not in signature.inputs:
                raise invalid(f"steps: model {step.model} has no input {alias}; it has {', '.join(signature.inputs)}")
            spec = replace(signature.inputs[alias], name=name, dims=())
            self._taken.add(name)
            if name in self._made:
                _check_fits(self._made[name][1], spec, self._made[name][0].model, step.model)
            elif name in self._inputs:
                _check_fits(self._inputs[name], spec, "the request", step.model)
                self._inputs[name] = _narrower(self._inputs[name], spec)
            else:
                self._inputs[name] = spec


def _check_fits(made: TensorSpec, taken: TensorSpec, source: str, step: str) -> None:
    where = f"steps: {taken.name} cannot pass from {source} to {step}"
    if made.dtype != taken.dtype:
        made_type, taken_type = dtype_name(made.dtype), dtype_name(taken.dtype)
        raise invalid(f"{where}: it has the type {made_type}, but {step} needs {taken_type}")
    if made.any_rank or taken.any_rank:
        return
    pairs = zip(made.shape, taken.shape, strict=False)
    if len(made.shape) != len(taken.shape) or any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise invalid(f"{where}: it has the shape {_written(made)}, but {step} needs {_written(taken)}")


def _narrower(one: TensorSpec, other: TensorSpec) -> TensorSpec:
    """A shape that satisfies both of two compatible declarations."""
    if one.any_rank or other.any_rank:
        return other if one.any_rank else one
    sizes = (a if b is None else b for a, b in zip(one.shape, other.shape, strict=True))
    return replace(one, shape=tuple(sizes))


def _written(spec: TensorSpec) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in spec.shape)}]"
