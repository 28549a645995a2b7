"""The models to serve: those in the configuration, with later requests by name."""

from collections.abc import Iterable

from headrace_server.config.model_config import ModelConfig, VersionPolicy


class Overlay:
    """The models to serve, by name: those that the configuration lists, as changed by requests.

    Callers hold a lock around the methods that change it; the other methods may be called on any thread.
    """

    def __init__(self) -> None:
        self._listed: dict[str, ModelConfig] = {}
        self._asked: dict[str, ModelConfig | None] = {}  # None for a model that is not to be served

    def list_all(self, models: Iterable[ModelConfig], *, anew: bool) -> None:
        """Records what the configuration lists.

        Args:
            models: All models in the configuration.
            anew: Whether to forget the requests for single models, which the configuration replaces.
        """
        if anew:
            self._asked.clear()
        self._listed = {model.name: model for model in models}

    def ask(self, name: str, model: ModelConfig | None) -> None:
        """Records a request to serve the model `name` as `model` says, or to stop serving it if `model` is None."""
        self._asked[name] = model

    def listed(self, name: str) -> ModelConfig | None:
        """A model as the configuration lists it."""
        return self._listed.get(name)

    def served(self, name: str) -> ModelConfig | None:
        """A model as it is served, or was before its versions failed; None for one that is not to be served."""
        return self._asked.get(name, self._listed.get(name))

    def policy_of(self, name: str) -> VersionPolicy | None:
        """Which versions of a model are served; None for one that is not to be served."""
        model = self.served(name)
        return None if model is None else model.policy

    def wanted(self) -> list[ModelConfig]:
        """The models that are to be served."""
        return [model for model in {**self._listed, **self._asked}.values() if model is not None]
