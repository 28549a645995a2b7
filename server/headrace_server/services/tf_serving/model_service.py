"""ModelService: the status of a model's versions, and reloading the configuration."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from headrace_protos import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelServerConfig,
    ModelVersionStatus,
    ReloadConfigRequest,
    ReloadConfigResponse,
)
from headrace_server.errors import AT_REST, invalid, not_found, status_of
from headrace_server.models.call import Call
from headrace_server.models.manager import Manager
from headrace_server.models.version_policy import State
from headrace_server.models.versions import VersionStatus
from headrace_server.services.rpc import Method, Service
from headrace_server.services.tf_serving.model_spec import require_model_spec

log = logging.getLogger(__name__)

Announce = Callable[[ModelServerConfig], Callable[[], None]]
ReadCounter = Callable[[str], int]


class ModelService:
    """`tensorflow.serving.ModelService`.

    Args:
        manager: Knows every version and its state.
        announce: Returns a function that replaces the configuration, and blocks until its new models are loaded.
        read_counter: Returns the value in the first cell of a counter, given the counter's name; 0 if there is no such
            counter.
    """

    def __init__(self, manager: Manager, announce: Announce, read_counter: ReadCounter) -> None:
        self._manager = manager
        self._announce = announce
        self._read_counter = read_counter
        # One thread: reloads run one after the other, and one that waits for its models blocks no other call's thread.
        self._reloads = ThreadPoolExecutor(1, "reload")

    def close(self) -> None:
        """Discards reloads that have not begun, and waits for the running one, which must no longer wait for models."""
        self._reloads.shutdown(cancel_futures=True)

    @property
    def service(self) -> Service:
        """The service, as a transport registers it."""
        return Service(
            "tensorflow.serving.ModelService",
            (
                Method("GetModelStatus", GetModelStatusRequest, self.get_model_status, lasting=True),
                Method("HandleReloadConfigRequest", ReloadConfigRequest, self.handle_reload_config_request),
            ),
        )

    async def get_model_status(self, request: GetModelStatusRequest, call: Call) -> GetModelStatusResponse:
        """Lists every version that ever existed, the highest first, or the requested one; a label is ignored.

        TF Serving's get_model_status_impl.cc does the same.
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

    async def handle_reload_config_request(self, request: ReloadConfigRequest, call: Call) -> ReloadConfigResponse:
        """Replaces the models as a whole, and answers once the new ones are loaded.

        TF Serving's model_service_impl.cc does the same. Only the caller limits how long that may take.
        """
        del call
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        names = dict.fromkeys(request.metric_names)
        before = {name: self._read_counter(name) for name in names}
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._reloads, self._announce(request.config))
        except Exception as error:
            log.error("ReloadConfig failed: %s", status_of(error)[1])
            raise
        response = ReloadConfigResponse()
        response.status.SetInParent()
        for name in names:
            response.metric.add(name=name, int64_value_increase=self._read_counter(name) - before[name])
        return response


def _message(status: VersionStatus) -> ModelVersionStatus:
    message = ModelVersionStatus(version=status.version, state=status.state.on_the_wire)
    message.status.SetInParent()  # the field is present even if it is empty, which means success
    if status.state is State.AT_REST:
        message.status.error_message = AT_REST
    if status.error is not None:
        message.status.error_code, message.status.error_message = status_of(status.error)
    return message
