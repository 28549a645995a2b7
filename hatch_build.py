"""Has the wheels of a release ask for headrace-native, which somebody who installs a checkout builds for themselves."""

import os
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MACHINES = ("x86_64", "aarch64")
"""Those for which `scripts/wheels` builds headrace-native; a server on another uses grpcio."""


class NativeTransport(BuildHookInterface):  # type: ignore[type-arg]
    """Adds headrace-native of the same version to the extras of a server where HEADRACE_RELEASE is set."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a wheel is made; `version` is "standard" or "editable"."""
        if version == "editable" or not os.environ.get("HEADRACE_RELEASE"):
            return
        extras = self.metadata.core.optional_dependencies  # with those that each brings along
        serving = [name for name, needs in extras.items() if set(extras["server"]) <= set(needs)]
        machines = " or ".join(f'platform_machine == "{machine}"' for machine in MACHINES)
        build_data["dependencies"] += [
            f'headrace-native=={self.metadata.version}; extra == "{name}" and sys_platform == "linux" and ({machines})'
            for name in serving
        ]
