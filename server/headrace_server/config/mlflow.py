"""Whether, and for which model, the REST port speaks MLflow's scoring protocol."""

from dataclasses import dataclass

from headrace_server.config.flag import flag
from headrace_server.errors import invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class MlflowOptions:
    """MLflow's scoring protocol. Flags with the prefix `mlflow_`."""

    model: str = flag(
        "", "model that answers MLflow's /invocations, /ping, /health and /version on the REST port; empty means none"
    )
    output: str = flag(
        "",
        "output whose values are the predictions, as for MLflow's scikit-learn models; if empty, all outputs are "
        "returned by name",
    )

    def check(self, rest_api_port: int) -> None:
        """Refuses options that do not fit together.

        Raises:
            ServingError: INVALID_ARGUMENT, with the flag that is missing.
        """
        if self.output and not self.model:
            raise invalid("--mlflow_output needs --mlflow_model")
        if self.model and not rest_api_port:
            raise invalid("--mlflow_model needs --rest_api_port")
