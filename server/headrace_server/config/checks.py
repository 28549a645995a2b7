"""Checks a whole configuration: the values of its options, and those that contradict each other."""

from dataclasses import fields
from typing import Any

from headrace_batching.option import refusals
from headrace_server.config.flag import name_of_flag
from headrace_server.config.run import Config
from headrace_server.errors import invalid


def check(config: Config) -> None:
    """Refuses invalid values, and options that contradict each other.

    TF Serving's server.cc and server_core.cc have the texts about its own flags.

    Raises:
        ServingError: INVALID_ARGUMENT, with the flag's name.
    """
    _check_values(config)
    for own in fields(config):
        if "prefix" in own.metadata:
            _check_values(getattr(config, own.name), own.metadata["prefix"])
    if config.use_alts_credentials and config.ssl_config_file:
        raise invalid("Either use_alts_credentials must be false or ssl_config_file must be empty.")
    config.signing.check()
    config.mlflow.check(config.rest_api_port)
    config.auth.check(tls=bool(config.ssl_config_file or config.rest_api_ssl_config_file))
    if config.latency_objective and not config.enable_batching:
        raise invalid("--latency_objective needs --enable_batching, since it works through batching")
    if not (config.model_base_path or config.model_config_file or config.models):
        raise invalid("Both server_options.model_base_path and server_options.model_config_file are empty!")
    parallelism = (
        config.tensorflow_session_parallelism,
        config.tensorflow_intra_op_parallelism,
        config.tensorflow_inter_op_parallelism,
    )
    if min(parallelism) > 0 and not config.platform_config_file:
        raise invalid(
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
            "separately. You cannot configure all."
        )


def _check_values(options: Any, prefix: str = "") -> None:
    for text in refusals(options, lambda own: f"--{name_of_flag(own, prefix)}"):
        raise invalid(text)
