"""The list of the models to serve, as TF Serving's message: from flags, objects or a file; its checks; its fields."""

import re
from collections.abc import Iterable

from headrace_protos import FileSystemStoragePathSourceConfig, ModelServerConfig, ModelType
from headrace_protos import ModelConfig as ModelConfigMessage
from headrace_server.config.files import read_text_proto
from headrace_server.config.model_config import All, Latest, ModelConfig, Specific, VersionPolicy
from headrace_server.config.paths import as_text
from headrace_server.config.platform import PLATFORM
from headrace_server.config.run import Config
from headrace_server.errors import invalid

_URI = re.compile(r"[a-zA-Z][0-9a-zA-Z.]*://|models:/")


def single_model(name: str, base_path: str) -> ModelServerConfig:
    """The configuration that the flags for a single model describe."""
    config = ModelServerConfig()
    config.model_config_list.config.add(name=name, base_path=as_text(base_path), model_platform=PLATFORM)
    return config


def several_models(models: Iterable[ModelConfig]) -> ModelServerConfig:
    """The configuration that models given as objects describe."""
    config = ModelServerConfig()
    for model in models:
        listed = config.model_config_list.config.add(
            name=model.name, base_path=model.uri or as_text(str(model.base_path)), model_platform=PLATFORM
        )
        if isinstance(model.policy, Specific):
            listed.model_version_policy.specific.versions.extend(model.policy.versions)
    return config


def first_models(config: Config) -> ModelServerConfig:
    """The models that a run starts with; an invalid list is reported before anything is loaded.

    Raises:
        ServingError: The file cannot be read; INVALID_ARGUMENT as for `check_models`.
    """
    if config.models:
        models = several_models(config.models)
    elif config.model_config_file:
        models = read_text_proto(config.model_config_file, ModelServerConfig())
    else:
        models = single_model(config.model_name, config.model_base_path)
    check_models(models.model_config_list.config)
    return models


def check_models(listed: Iterable[ModelConfigMessage]) -> None:
    """Checks the names and the base paths of a list, as in `ValidateModelConfigList` of TF Serving's server_core.cc.

    Raises:
        ServingError: INVALID_ARGUMENT if a name is listed twice, or a base path is relative.
    """
    names: set[str] = set()
    for model in listed:
        if model.name in names:
            raise invalid(f"Illegal to list model {model.name} multiple times in config list")
        names.add(model.name)
    for model in listed:
        if not model.base_path.startswith("/") and not _URI.match(model.base_path):
            raise invalid(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )


def platform_of(model: ModelConfigMessage) -> str:
    """A model's platform, from either of the two fields, as in `GetPlatform` of TF Serving's server_core.cc.

    Raises:
        ServingError: INVALID_ARGUMENT if there is no platform or there are two, or it is not one of TF Serving's.
    """
    both = "model_type (deprecated) {} ModelServerConfig::model_platform, model name is " + model.name
    if model.model_type and model.model_platform:
        raise invalid("Illegal setting both ModelServerConfig::" + both.format("and"))
    if not model.model_type and not model.model_platform:
        raise invalid("Illegal setting neither ModelServerConfig::" + both.format("nor"))
    if model.model_type not in (ModelType.MODEL_TYPE_UNSPECIFIED, ModelType.TENSORFLOW):
        raise invalid(f"ModelServerConfig::model_type choice {model.model_type} not supported.")
    return model.model_platform or PLATFORM


def policy_of(message: FileSystemStoragePathSourceConfig.ServableVersionPolicy) -> VersionPolicy:
    """Which of a model's versions a message selects; the latest one if it says nothing."""
    match message.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            return Specific(tuple(message.specific.versions))
        case _:
            return Latest(max(1, message.latest.num_versions))
