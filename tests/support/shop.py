"""Loads graphs into servables, as the manager does."""

from pathlib import Path

from headrace_batching import BatchThreads, Options
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.independence import Verdict
from headrace_server.backends.signature import DEFAULT_SIGNATURE
from headrace_server.metrics.catalogue import Metrics
from headrace_server.models.loader import Loader
from headrace_server.models.servable import Servable
from tests.support.graphs import Graph

ANY = Options()


class Shop:
    """Loads versions of one model, and closes them at the end.

    Args:
        base_path: The base path of the model.
    """

    def __init__(self, base_path: Path) -> None:
        self.base_path = base_path
        self.metrics = Metrics()
        self._threads = BatchThreads(1)
        self._servables: list[Servable] = []

    def load(
        self, graph: Graph | None = None, toml: str = "", batching: Options | None = ANY, *, unproved: bool = False
    ) -> Servable:
        """Loads a version.

        Args:
            graph: The model; None for the existing file.
            toml: The model's `model.toml`; if empty, an existing one is kept.
            batching: The batching options; None means no batching.
            unproved: Whether to use a padding that was not proved exact.
        """
        if graph is not None:
            graph.write(self.base_path / "1")
        if toml:
            (self.base_path / "model.toml").write_text(toml)
        loader = Loader(
            BackendOptions(), self._threads, batching, self.metrics, per_model_batching=False, pad_unproved=unproved
        )
        self._servables.append(loader.load("m", 1, self.base_path / "1"))
        return self._servables[-1]

    def verdict(self, graph: Graph, toml: str = "", batching: Options | None = ANY) -> Verdict:
        """The decision about a graph's rows."""
        servable = self.load(graph, toml, batching)
        verdict = servable.verdicts[DEFAULT_SIGNATURE]
        assert servable.batching is None or servable.signatures[DEFAULT_SIGNATURE].batched is verdict.batched
        return verdict

    def close(self) -> None:
        """Closes all loaded servables."""
        while self._servables:
            self._servables.pop().close()
