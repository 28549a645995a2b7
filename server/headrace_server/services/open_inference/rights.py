"""The rights of callers besides inference: to read about the served models, or to administer them."""

from enum import IntEnum

from headrace_server.errors import ServingError, unimplemented


class Rights(IntEnum):
    """The rights of callers; each includes the ones before it.

    Attributes:
        NONE: Inference, health and metadata.
        READ: The repository's index, and the settings.
        WRITE: Load and unload models of the configuration, register shared memory, change settings.
        FILES: Load models whose files come with the call.
    """

    NONE = 0
    READ = 1
    WRITE = 2
    FILES = 3

    @classmethod
    def named(cls, name: str) -> "Rights":
        """The rights that a flag's value means."""
        return cls[name.upper()]

    def require(self, needed: "Rights", what: str) -> None:
        """Raises an error if these rights do not include a right.

        Args:
            needed: The right that is needed.
            what: A noun phrase for the action.

        Raises:
            ServingError: UNIMPLEMENTED, as for a method that the server does not have.
        """
        if self < needed:
            raise self._refused(needed, what)

    def _refused(self, needed: "Rights", what: str) -> ServingError:
        flag = f"--open_inference_admin={self.name.lower()}"
        return unimplemented(f"{what} needs --open_inference_admin={needed.name.lower()}; the server has {flag}")
