"""headrace on Ray Serve: each replica runs a server in its own process, and callers connect to its port directly.

Ray places, replaces and counts the replicas. The calls do not pass through Ray, so they cost no more than without it.
"""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy
from scaling import replicas_for, waiting_rows

from headrace_client import AsyncClient, Retry
from headrace_server import Config, ModelConfig, Server

FORGOTTEN_AFTER = 60.0
"""Seconds without a message after which the replica at an address counts as dead."""

TARGET = 4.0
"""Rows that may wait for each busy thread before replicas are added."""


@ray.remote(num_cpus=0)
class Directory:
    """The addresses of the replicas that take calls."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def join(self, address: str) -> None:
        """Records that a replica takes calls."""
        self._seen[address] = time.monotonic()

    def leave(self, address: str) -> None:
        """Records that a replica is about to stop."""
        self._seen.pop(address, None)

    def addresses(self) -> list[str]:
        """The addresses to which calls can be sent."""
        oldest = time.monotonic() - FORGOTTEN_AFTER
        return sorted(address for address, seen in self._seen.items() if seen > oldest)


def directory(name: str) -> Any:
    """The directory of an application, which is created if it does not exist."""
    named = {"name": f"headrace-{name}", "namespace": "headrace"}
    return Directory.options(**named, get_if_exists=True, lifetime="detached").remote()


@serve.deployment(graceful_shutdown_timeout_s=90, health_check_period_s=5)
class Replica:
    """One server.

    Args:
        name: The application's name.
        models: Base paths by model name; folders that every node has, or URIs of a store.
        options: Fields of headrace_server.Config.
        lame_duck_seconds: The seconds for which a replica still accepts calls after it has left the directory.
    """

    async def __init__(
        self, name: str, models: Mapping[str, str], options: Mapping[str, Any], lame_duck_seconds: float = 3.0
    ) -> None:
        self._lame_duck_seconds = lame_duck_seconds
        self._directory = directory(name)
        configured = tuple(
            ModelConfig(model, Path(), uri=path) if ":/" in path else ModelConfig(model, Path(path))
            for model, path in models.items()
        )
        self._server = Server(Config(**{"port": 0, **options}, models=configured))
        port = await self._server.start()
        self._address = f"{options.get('host') or ray.util.get_node_ip_address()}:{port}"
        await self._directory.join.remote(self._address)

    async def check_health(self) -> None:
        """Ray calls this regularly, and replaces a replica that raises or does not answer."""
        if not self._server.serving:
            raise RuntimeError("no model is ready")
        await self._directory.join.remote(self._address)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """The figures that `by_waiting_rows` bases its decision on."""
        return {"waiting": waiting_rows(self._server.metrics())}

    async def __del__(self) -> None:
        """Stops like a server behind any load balancer: leaves the directory, then finishes the calls in flight."""
        await self._directory.leave.remote(self._address)
        self._server.turn_away()
        await asyncio.sleep(self._lame_duck_seconds)
        await self._server.stop()


def by_waiting_rows(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """Ray's autoscaling policy: see `scaling.replicas_for`."""
    waiting = (context.aggregated_metrics or {}).get("waiting", {})
    least, most = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    wanted = replicas_for(context.current_num_replicas, [*waiting.values()], target=TARGET, least=least, most=most)
    return wanted, {}


def application(
    name: str,
    models: Mapping[str, str],
    *,
    replicas: int = 2,
    most_replicas: int = 0,
    num_cpus: float = 1,
    **options: Any,
) -> serve.Application:
    """The application for `serve.run`. A second run with other models or options replaces the replicas one by one.

    Args:
        name: The name by which callers refer to it.
        models: Base paths by model name.
        replicas: The number of servers; the smallest number if `most_replicas` is larger.
        most_replicas: The largest number of servers, reached as more rows wait; 0 keeps their number fixed.
        num_cpus: The number of CPUs that Ray reserves for each server.
        options: Fields of headrace_server.Config, the same for all.
    """
    scaling: dict[str, Any] = {"num_replicas": replicas}
    if most_replicas > replicas:
        policy = AutoscalingPolicy(policy_function=by_waiting_rows)
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=replicas,
                max_replicas=most_replicas,
                policy=policy,
                upscale_delay_s=2,
                downscale_delay_s=60,
                metrics_interval_s=1,
                look_back_period_s=3,
            )
        }
    actor = {"num_cpus": num_cpus}
    return Replica.options(**scaling, ray_actor_options=actor).bind(name, dict(models), options)


class Caller:
    """Calls the current replicas in turn; an asynchronous context manager, for a process that is connected to Ray.

    Args:
        name: The application's name.
        refresh_seconds: Seconds between two requests to the directory. Must be shorter than the replicas'
            `lame_duck_seconds`.
    """

    def __init__(self, name: str, refresh_seconds: float = 0.5) -> None:
        self._directory = directory(name)
        self._refresh_seconds = refresh_seconds
        self._known: list[str] = []
        self._client: AsyncClient | None = None
        self._before: list[AsyncClient] = []

    async def __aenter__(self) -> "Caller":
        while not self._known:
            await self._refresh()
            await asyncio.sleep(0.05)
        self._refreshing = asyncio.create_task(self._keep_refreshing())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._refreshing.cancel()
        for client in (*self._before, self._client):
            if client is not None:
                await client.close()

    async def predict(self, model: str, inputs: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """The same as `headrace_client.AsyncClient.predict`."""
        assert self._client is not None
        return await self._client.predict(model, inputs, **options)

    async def _keep_refreshing(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_seconds)
            await self._refresh()

    async def _refresh(self) -> None:
        addresses = await self._directory.addresses.remote()
        if not addresses or addresses == self._known:
            return
        if self._client is not None:
            self._before.append(self._client)  # the old client may have calls in flight
        self._known = addresses
        self._client = AsyncClient(f"ipv4:{','.join(addresses)}", retry=Retry(attempts=4))
        while len(self._before) > 4:
            await self._before.pop(0).close()
