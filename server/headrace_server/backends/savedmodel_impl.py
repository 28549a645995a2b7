"""Runs TensorFlow SavedModels in a TensorFlow session, as TF Serving does."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.config_pb2 import CallableOptions
from tensorflow.python.saved_model.loader_impl import SavedModelLoader

from headrace_batching.task import Arrays
from headrace_protos import Code, SignatureDef
from headrace_server.backends.base import NO_RISKS, BackendOptions, Risks
from headrace_server.backends.savedmodel_graph import SavedModelGraph
from headrace_server.backends.signature import Signature
from headrace_server.backends.signature_def import read_signature
from headrace_server.errors import LoadError, ServingError, invalid

Step = Callable[..., Sequence[Any]]

MAX_STEPS = 32
"""The maximum number of sets of outputs whose part of the graph is kept; callers can choose 2^n sets of n outputs."""


def load_saved_model(folder: Path, options: BackendOptions) -> "SavedModelBackend":
    """Loads the graph with the wanted tags, restores its variables, and runs its initialisation.

    Raises:
        LoadError: As in TF Serving, NOT_FOUND if no graph has the tags, DATA_LOSS if the file cannot be parsed;
            otherwise TensorFlow's own code and text.
    """
    session = tf.compat.v1.Session(graph=tf.Graph(), config=_session_config(options))
    try:
        with _path_in_utf8(folder) as path:
            loader = _loader(folder, path)
            _check_tags(loader, options.saved_model_tags)
            with session.graph.as_default():
                graph = loader.load(session, options.saved_model_tags)
        definitions = {name: SignatureDef.FromString(d.SerializeToString()) for name, d in graph.signature_def.items()}
        # TensorFlow's operators check their inputs, including arrays without elements.
        signatures = {name: replace(read_signature(d), empty=True) for name, d in definitions.items()}
        return SavedModelBackend(session, signatures, _risks(graph.graph_def, signatures.values()))
    except Exception as error:
        session.close()
        raise _load_error(folder, error) from error


class SavedModelBackend:
    """One SavedModel in one session, with all its signatures.

    Args:
        session: The session, which the backend now owns; its graph holds the model.
        signatures: The signatures by name.
        risks: See `base.MayEndProcess`.
    """

    runtime = "tensorflow"

    def __init__(self, session: Any, signatures: Mapping[str, Signature], risks: Risks) -> None:
        self._session = session
        self._signatures = signatures
        self.risks = risks
        self._lock = Lock()
        self._steps: dict[tuple[str, tuple[str, ...]], Step] = {}

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """All signatures of the SavedModel, including `__saved_model_init_op`."""
        return self._signatures

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Feeds the arrays to the graph unchanged; the operators refuse shapes that they cannot use."""
        feeds = (inputs[alias] for alias in self._signatures[signature].inputs)
        computed = self._computed(signature, tuple(outputs))
        try:
            values = self._step(signature, computed)(*feeds)
        except tf.errors.OpError as error:
            raise ServingError(error.error_code, error.message) from error
        except UnicodeDecodeError as error:  # TensorFlow's text quotes bytes of the request
            raise invalid(error.object.decode(errors="replace")) from error
        arrays = {alias: np.asarray(value) for alias, value in zip(computed, values, strict=True)}
        return {alias: arrays[alias] for alias in outputs}

    def close(self) -> None:
        """Frees the session, its variables and its graph."""
        self._steps.clear()
        self._session.close()

    def _computed(self, signature: str, outputs: tuple[str, ...]) -> tuple[str, ...]:
        """The outputs to compute if these are requested: all, once callers have requested many different sets."""
        if (signature, outputs) in self._steps or len(self._steps) < MAX_STEPS:
            return outputs
        return self._signatures[signature].every_output

    def _step(self, signature: str, outputs: tuple[str, ...]) -> Step:
        """The function that runs a part of the graph; it is created at its first use."""
        key = (signature, outputs)
        with self._lock:
            if key not in self._steps:
                self._steps[key] = self._new_step(self._signatures[signature], outputs)
            return self._steps[key]

    def _new_step(self, signature: Signature, outputs: Sequence[str]) -> Step:
        options = CallableOptions(
            feed=[spec.name for spec in signature.inputs.values()],
            fetch=[signature.outputs[alias].name for alias in outputs],
        )
        # This is the call that Session.run wraps. Session.run also compares shapes, which TF Serving does not do, and
        # takes four times as much CPU.
        step: Step = self._session._make_callable_from_options(options)  # noqa: SLF001
        return step


def _risks(graph: Any, signatures: Iterable[Signature]) -> Risks:
    """The risks of a graph; none with a GPU, all of whose memory TensorFlow takes in the first process that uses it."""
    if tf.config.list_physical_devices("GPU"):
        return NO_RISKS
    feeds = {spec.name for signature in signatures for spec in signature.inputs.values()}
    return SavedModelGraph(graph, feeds).risks


def _session_config(options: BackendOptions) -> Any:
    return tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=options.intra_op_threads,
        inter_op_parallelism_threads=options.inter_op_threads,
    )


@contextmanager
def _path_in_utf8(folder: Path) -> Iterator[str]:
    """A path under which TensorFlow can open a folder; TensorFlow refuses paths that are not UTF-8.

    For a folder with an unusual name, the path is that of a file descriptor.
    """
    if str(folder).isprintable():
        yield str(folder)
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{opened}"
    finally:
        os.close(opened)


def _loader(folder: Path, path: str) -> Any:
    try:
        return SavedModelLoader(path)
    except OSError as error:
        kind, file = (
            ("binary", "saved_model.pb") if (folder / "saved_model.pb").exists() else ("text", "saved_model.pbtxt")
        )
        raise LoadError(Code.DATA_LOSS, f"Can't parse {folder / file} as {kind} proto") from error


def _check_tags(loader: Any, tags: Sequence[str]) -> None:
    try:
        loader.get_meta_graph_def_from_tags(tags)
    except RuntimeError as error:
        message = (
            f"Could not find meta graph def matching supplied tags: {{ {' '.join(tags)} }}. To inspect available "
            "tag-sets in the SavedModel, please use the SavedModel CLI: `saved_model_cli`"
        )
        raise LoadError(Code.NOT_FOUND, message) from error


def _load_error(folder: Path, error: Exception) -> LoadError:
    if isinstance(error, LoadError):
        return error
    if isinstance(error, tf.errors.OpError):
        return LoadError(error.error_code, f"{folder} cannot be loaded: {error.message}")
    return LoadError(Code.INVALID_ARGUMENT, f"{folder} cannot be loaded: {type(error).__name__}: {error}")
