"""ModelService: what is known of a model's versions."""

from headrace_protos import GetModelStatusRequest, GetModelStatusResponse, ModelVersionStatus
from headrace_server.errors import not_found, status_of
from headrace_server.models.manager import Manager, VersionStatus
from headrace_server.models.servable import Call
from headrace_server.services.model_spec import require_model_spec
from headrace_server.services.rpc import Method, Service


class ModelService:
    """`tensorflow.serving.ModelService`.

    Args:
        manager: Knows the versions.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    @property
    def service(self) -> Service:
        """What a transport registers."""
        return Service(
            "tensorflow.serving.ModelService",
            (Method("GetModelStatus", GetModelStatusRequest, self.get_model_status),),
        )

    async def get_model_status(self, request: GetModelStatusRequest, call: Call) -> GetModelStatusResponse:
        """Lists every version there ever was, the highest first, or the one asked for; a label is ignored.

        TF Serving: get_model_status_impl.cc.
        """
        del call
        spec = require_model_spec(request)
        statuses = self._manager.statuses(spec.name)
        if spec.HasField("version"):
            statuses = [status for status in statuses if status.version == spec.version.value]
            if not statuses:
                raise not_found(f"Could not find version {spec.version.value} of model {spec.name}")
        if not statuses:
            raise not_found(f"Could not find any versions of model {spec.name}")
        return GetModelStatusResponse(model_version_status=[_message(status) for status in statuses])


def _message(status: VersionStatus) -> ModelVersionStatus:
    message = ModelVersionStatus(version=status.version, state=status.state.value)
    message.status.SetInParent()  # present, though empty, where all is well
    if status.error is not None:
        message.status.error_code, message.status.error_message = status_of(status.error)
    return message
