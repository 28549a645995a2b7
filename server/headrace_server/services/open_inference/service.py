"""`inference.GRPCInferenceService`: the Open Inference Protocol over gRPC, with Triton's extensions."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from headrace_protos.inference import grpc_service_pb2 as messages
from headrace_server.errors import invalid, unimplemented
from headrace_server.models.call import Call
from headrace_server.services.open_inference.answer import InferAnswer
from headrace_server.services.open_inference.inference import infer, infer_many
from headrace_server.services.open_inference.messages import read_request, write_answer
from headrace_server.services.open_inference.parameters import VERSION_LABEL, text_of
from headrace_server.services.open_inference.repository import FILE, LoadRequest, check_repository
from headrace_server.services.open_inference.rights import Rights
from headrace_server.services.open_inference.server import OpenInference
from headrace_server.services.open_inference.streaming import Stream, StreamAnswer
from headrace_server.services.rpc import Method, Service, StreamMethod


class GrpcInferenceService:
    """The service; its methods are named after the protocol's, and answer like Triton.

    Args:
        server: The models, the regions and the settings that gRPC and HTTP share.
    """

    name = "inference.GRPCInferenceService"

    def __init__(self, server: OpenInference) -> None:
        self._server = server
        self._models = server.models

    @property
    def service(self) -> Service:
        """The service as a transport registers it."""
        lasting = (
            ("ServerLive", messages.ServerLiveRequest, self.server_live),
            ("ServerReady", messages.ServerReadyRequest, self.server_ready),
            ("ModelReady", messages.ModelReadyRequest, self.model_ready),
            ("ServerMetadata", messages.ServerMetadataRequest, self.server_metadata),
            ("ModelMetadata", messages.ModelMetadataRequest, self.model_metadata),
        )
        methods = (
            ("ModelInfer", messages.ModelInferRequest, self.model_infer),
            ("ModelConfig", messages.ModelConfigRequest, self.model_config),
            ("ModelStatistics", messages.ModelStatisticsRequest, self.model_statistics),
            ("RepositoryIndex", messages.RepositoryIndexRequest, self.repository_index),
            ("RepositoryModelLoad", messages.RepositoryModelLoadRequest, self.repository_model_load),
            ("RepositoryModelUnload", messages.RepositoryModelUnloadRequest, self.repository_model_unload),
            ("SystemSharedMemoryStatus", messages.SystemSharedMemoryStatusRequest, self.system_status),
            ("SystemSharedMemoryRegister", messages.SystemSharedMemoryRegisterRequest, self.system_register),
            ("SystemSharedMemoryUnregister", messages.SystemSharedMemoryUnregisterRequest, self.system_unregister),
            ("CudaSharedMemoryStatus", messages.CudaSharedMemoryStatusRequest, self.cuda_status),
            ("CudaSharedMemoryRegister", messages.CudaSharedMemoryRegisterRequest, self.cuda_register),
            ("CudaSharedMemoryUnregister", messages.CudaSharedMemoryUnregisterRequest, self.cuda_unregister),
            ("TraceSetting", messages.TraceSettingRequest, self.trace_setting),
            ("LogSettings", messages.LogSettingsRequest, self.log_settings),
        )
        stream = StreamMethod("ModelStreamInfer", messages.ModelInferRequest, self.model_stream_infer)
        kept = (Method(name, request, answer, lasting=True) for name, request, answer in lasting)
        unary = (*kept, *(Method(*method) for method in methods))
        return Service(self.name, unary, (stream,))

    async def server_live(self, request: messages.ServerLiveRequest, call: Call) -> messages.ServerLiveResponse:
        """Whether the process is up; any answer shows that."""
        del request, call
        return messages.ServerLiveResponse(live=True)

    async def server_ready(self, request: messages.ServerReadyRequest, call: Call) -> messages.ServerReadyResponse:
        """Whether every configured model can be called."""
        del request, call
        return messages.ServerReadyResponse(ready=self._models.is_ready())

    async def model_ready(self, request: messages.ModelReadyRequest, call: Call) -> messages.ModelReadyResponse:
        """Whether a model can be called; an unknown one cannot, which is not an error."""
        del call
        return messages.ModelReadyResponse(ready=self._models.lookup.is_ready(request.name, request.version))

    async def server_metadata(
        self, request: messages.ServerMetadataRequest, call: Call
    ) -> messages.ServerMetadataResponse:
        """The server's name, version and extensions."""
        del request, call
        return self._models.server()

    async def model_metadata(
        self, request: messages.ModelMetadataRequest, call: Call
    ) -> messages.ModelMetadataResponse:
        """A model's inputs and outputs."""
        del call
        return await self._models.metadata(request.name, request.version)

    async def model_config(self, request: messages.ModelConfigRequest, call: Call) -> messages.ModelConfigResponse:
        """How a model is served."""
        del call
        return messages.ModelConfigResponse(config=await self._models.config(request.name, request.version))

    async def model_statistics(
        self, request: messages.ModelStatisticsRequest, call: Call
    ) -> messages.ModelStatisticsResponse:
        """The statistics of models."""
        del call
        return self._models.statistics(request.name, request.version)

    async def model_infer(self, request: messages.ModelInferRequest, call: Call) -> messages.ModelInferResponse:
        """Runs a model once."""
        label = text_of(request.parameters, VERSION_LABEL)
        name, version = request.model_name, request.model_version
        with await self._models.lookup.lease(name, version, label, deadline=call.deadline) as servable:
            if not servable.answers_once:
                raise unimplemented("ModelInfer RPC doesn't support models with decoupled transaction policy")
            asked = read_request(request, self._server.regions)
            return write_answer(await infer(servable, asked, call))

    def model_stream_infer(self, requests: Any, call: Call) -> Any:
        """Runs models as requests arrive."""
        return Stream(self._answers, call).responses(requests)

    async def _answers(self, request: messages.ModelInferRequest, call: Call) -> AsyncGenerator[StreamAnswer, None]:
        """The answers to one request of a stream; after those of a generator, an empty one if requested."""
        label = text_of(request.parameters, VERSION_LABEL)
        name, version = request.model_name, request.model_version
        with await self._models.lookup.lease(name, version, label, deadline=call.deadline) as servable:
            asked = read_request(request, self._server.regions)
            if not servable.streams:
                yield StreamAnswer(write_answer(await infer(servable, asked, call)))
                return
            async with aclosing(infer_many(servable, asked)) as answers:
                async for answer in answers:
                    yield StreamAnswer(write_answer(answer), is_last=False, is_only=False)
            if asked.parameters.empty_final_response:
                last = InferAnswer(asked.model, servable.version, asked.id)
                yield StreamAnswer(write_answer(last), is_only=False)

    async def repository_index(
        self, request: messages.RepositoryIndexRequest, call: Call
    ) -> messages.RepositoryIndexResponse:
        """Every version of every model, and its state."""
        del call
        check_repository(request.repository_name)
        response = messages.RepositoryIndexResponse()
        for entry in self._server.repository.index(ready=request.ready):
            response.models.add(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
        return response

    async def repository_model_load(
        self, request: messages.RepositoryModelLoadRequest, call: Call
    ) -> messages.RepositoryModelLoadResponse:
        """Loads a model."""
        del call
        check_repository(request.repository_name)
        await self._server.repository.load(request.model_name, _load_request(request))
        return messages.RepositoryModelLoadResponse()

    async def repository_model_unload(
        self, request: messages.RepositoryModelUnloadRequest, call: Call
    ) -> messages.RepositoryModelUnloadResponse:
        """Unloads a model."""
        del call
        check_repository(request.repository_name)
        dependents = request.parameters.get("unload_dependents")
        if dependents is not None and dependents.WhichOneof("parameter_choice") != "bool_param":
            raise invalid("invalid value type for 'unload_dependents' parameter, expected bool_param.")
        await self._server.repository.unload(request.model_name)
        return messages.RepositoryModelUnloadResponse()

    async def system_status(
        self, request: messages.SystemSharedMemoryStatusRequest, call: Call
    ) -> messages.SystemSharedMemoryStatusResponse:
        """The registered regions of system shared memory."""
        del call
        self._server.rights.require(Rights.READ, "the status of shared memory")
        response = messages.SystemSharedMemoryStatusResponse()
        for region in self._server.regions.status(request.name):
            status = response.regions[region.name]
            status.name, status.key = region.name, region.key
            status.offset, status.byte_size = region.offset, region.byte_size
        return response

    async def system_register(
        self, request: messages.SystemSharedMemoryRegisterRequest, call: Call
    ) -> messages.SystemSharedMemoryRegisterResponse:
        """Registers a region of system shared memory."""
        del call
        self._server.register(request.name, request.key, request.offset, request.byte_size)
        return messages.SystemSharedMemoryRegisterResponse()

    async def system_unregister(
        self, request: messages.SystemSharedMemoryUnregisterRequest, call: Call
    ) -> messages.SystemSharedMemoryUnregisterResponse:
        """Removes a region, or all of them."""
        del call
        self._server.regions.unregister(request.name)
        return messages.SystemSharedMemoryUnregisterResponse()

    async def cuda_status(
        self, request: messages.CudaSharedMemoryStatusRequest, call: Call
    ) -> messages.CudaSharedMemoryStatusResponse:
        """The registered regions of GPU memory."""
        del call
        self._server.rights.require(Rights.READ, "the status of shared memory")
        response = messages.CudaSharedMemoryStatusResponse()
        for region in self._server.regions.cuda.status(request.name):
            status = response.regions[region.name]
            status.name, status.device_id, status.byte_size = region.name, region.device_id, region.byte_size
        return response

    async def cuda_register(
        self, request: messages.CudaSharedMemoryRegisterRequest, call: Call
    ) -> messages.CudaSharedMemoryRegisterResponse:
        """Registers a region of GPU memory."""
        del call
        self._server.register_cuda(request.name, request.raw_handle, request.device_id, request.byte_size)
        return messages.CudaSharedMemoryRegisterResponse()

    async def cuda_unregister(
        self, request: messages.CudaSharedMemoryUnregisterRequest, call: Call
    ) -> messages.CudaSharedMemoryUnregisterResponse:
        """Removes a region of GPU memory, or all of them."""
        del call
        self._server.regions.cuda.unregister(request.name)
        return messages.CudaSharedMemoryUnregisterResponse()

    async def trace_setting(self, request: messages.TraceSettingRequest, call: Call) -> messages.TraceSettingResponse:
        """Returns trace settings after applying the given ones."""
        del call
        changes = {name: list(setting.value) for name, setting in request.settings.items()}
        response = messages.TraceSettingResponse()
        for name, values in self._server.trace_settings(request.model_name, changes).items():
            response.settings[name].value.extend(values)
        return response

    async def log_settings(self, request: messages.LogSettingsRequest, call: Call) -> messages.LogSettingsResponse:
        """Returns log settings after applying the given ones."""
        del call
        changes = {name: _setting(value) for name, value in request.settings.items()}
        response = messages.LogSettingsResponse()
        for name, value in self._server.log_settings(changes).items():
            setattr(response.settings[name], _LOG_FIELDS[type(value)], value)
        return response


_LOG_FIELDS = {bool: "bool_param", int: "uint32_param", str: "string_param"}


def _setting(value: messages.LogSettingsRequest.SettingValue) -> Any:
    kind = value.WhichOneof("parameter_choice")
    return None if kind is None else getattr(value, kind)


def _load_request(request: messages.RepositoryModelLoadRequest) -> LoadRequest:
    config, files = None, {}
    for name, parameter in request.parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if name == "config":
            if kind != "string_param":
                raise invalid("invalid value type for load parameter 'config', expected string_param.")
            config = parameter.string_param
        elif name.startswith(FILE):
            if kind != "bytes_param":
                raise invalid(f"invalid value type for load parameter '{name}', expected bytes_param.")
            files[name.removeprefix(FILE)] = parameter.bytes_param
        else:
            raise invalid(f"unrecognized load parameter '{name}'.")
    return LoadRequest(config, files)
