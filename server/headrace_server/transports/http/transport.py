"""The REST API's transport, if a port is set; the server also runs without it."""

import logging
from dataclasses import dataclass

from headrace_server.config.run import Config
from headrace_server.errors import ServingError
from headrace_server.processes.pool import JsonProcesses
from headrace_server.security.gate import Gate
from headrace_server.security.methods import Action, Need
from headrace_server.services.mlflow import service as mlflow
from headrace_server.services.open_inference.rest.service import OpenInferenceRest, OpenInferenceRestOptions
from headrace_server.services.open_inference.server import OpenInference
from headrace_server.services.page.service import GUARDED_PATHS, PageApi
from headrace_server.services.page.service import PATHS as PAGE_PATHS
from headrace_server.services.ready import PATHS, ReadyApi
from headrace_server.services.router import HttpApi, Router
from headrace_server.services.servables import Servables
from headrace_server.services.tf_serving.model_service import ModelService
from headrace_server.services.tf_serving.prediction import PredictionService
from headrace_server.services.tf_serving.rest.large import JsonWork
from headrace_server.services.tf_serving.rest.service import RestOptions, RestService
from headrace_server.transports.grpc.endpoint import CallerBounds, Tracing, Transport
from headrace_server.transports.http.base import HttpOptions, PlainApis
from headrace_server.transports.http.guard import GuardedApi, Needs
from headrace_server.transports.http.selection import make_http
from headrace_server.transports.http.traced import TracedApi
from headrace_server.transports.request_id import IdentifiedApi

log = logging.getLogger(__name__)

CLASH = (
    "server_options.http_port cannot be same as grpc_port. Please use a different port for HTTP/REST API. "
    "Skipped exporting HTTP/REST API."
)


@dataclass(frozen=True, slots=True)
class Beside:
    """The paths that are served on the port besides the APIs.

    Attributes:
        servables: Where the model of MLflow's protocol is found, if it is served.
        page: The live page; None if there is none.
        tracing: Records traced requests; None if there are no traces.
        gate: Decides which requests are answered; None answers all.
    """

    servables: Servables
    page: PageApi | None = None
    tracing: Tracing | None = None
    gate: Gate | None = None


class RestTransport:
    """The REST API over HTTP, and the processes that parse for it.

    Args:
        config: The port and the limits.
        prediction: Runs models.
        model: Knows the versions of models.
        options: All other options.
        open_inference: The state of the other API.
        carrier: gRPC's transport, which carries HTTP as well if it is the native one.
        beside: The other paths that are served on the port.
    """

    def __init__(
        self,
        config: Config,
        prediction: PredictionService,
        model: ModelService,
        options: RestOptions,
        open_inference: OpenInference,
        carrier: Transport,
        beside: Beside,
    ) -> None:
        self._config = config
        self._processes = JsonProcesses(config.rest_api_json_processes, CallerBounds.of(config).memory)
        rest = RestService(prediction, model, JsonWork(self._processes), options)
        limits = OpenInferenceRestOptions(options.timeout, options.cors, options.observe)
        infer = OpenInferenceRest(open_inference, self._processes, limits)
        pages: dict[str, HttpApi] = dict.fromkeys(PATHS, ReadyApi(options.is_ready))
        if beside.page is not None:
            pages |= dict.fromkeys(PAGE_PATHS, beside.page)
        if config.mlflow.model:
            pages |= dict.fromkeys(mlflow.PATHS, self._mlflow(beside.servables, options))
        api: HttpApi = Router({"/v2": infer}, rest, pages)
        if beside.tracing is not None:
            api = TracedApi(api, beside.tracing)
        if config.access_log:
            api = IdentifiedApi(api)
        if beside.gate is not None:
            others = dict.fromkeys(options.pages, Action.METRICS) | dict.fromkeys(PAGE_PATHS, Action.PUBLIC)
            others |= dict.fromkeys(GUARDED_PATHS, Action.PAGE)
            calls = _mlflow_needs(config.mlflow.model) if config.mlflow.model else {}
            api = GuardedApi(beside.gate, Needs(others, calls), api, cors=options.cors)
        http = HttpOptions(
            config.rest_api_host,
            config.rest_api_port,
            config.rest_api_max_body_mb << 20,
            options.timeout,
            config.rest_api_ssl_config_file,
            config.connection_stall_seconds,
        )
        self._http = make_http(http, PlainApis(rest, infer), api, carrier)

    def _mlflow(self, servables: Servables, options: RestOptions) -> mlflow.MlflowApi:
        settings = mlflow.MlflowRestOptions(
            self._config.mlflow.model,
            self._config.mlflow.output,
            options.timeout,
            options.cors,
            options.is_ready,
            options.observe,
        )
        return mlflow.MlflowApi(servables, self._processes, settings)

    async def start(self) -> None:
        """Listens for HTTP. As in TF Serving's server.cc, only gRPC is served if that fails, and the log says why."""
        if self._config.rest_api_port == self._config.port:
            log.error(CLASH)
            return
        try:
            port = await self._http.start()
        except ServingError as error:
            log.error(error.message)
            return
        log.info("Exporting HTTP/REST API at:localhost:%d ...", port)

    async def stop(self, grace: float) -> None:
        """Accepts no more requests, and returns when those in flight have ended, or after `grace` seconds."""
        await self._http.stop(grace)
        await self._processes.close()


def _mlflow_needs(model: str) -> dict[str, Need]:
    """The right that each call of MLflow's protocol needs."""
    health = dict.fromkeys(mlflow.HEALTH, Need(Action.HEALTH))
    return {mlflow.INVOCATIONS: Need(Action.PREDICT, (model,)), mlflow.VERSION: Need(Action.METADATA), **health}
