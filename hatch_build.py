"""Makes the wheels of a release require headrace-native; whoever installs a checkout builds it separately."""

import os
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MACHINES = ("x86_64", "aarch64")
"""The processors for which `scripts/wheels` builds headrace-native; a server on any other uses grpcio."""


class NativeTransport(BuildHookInterface):  # type: ignore[type-arg]
    """Adds headrace-native of the same version to the extras of a server if HEADRACE_RELEASE is set."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a wheel is made; `version` is "standard" or "editable"."""
        if version == "editable" or not os.environ.get("HEADRACE_RELEASE"):
            return
        extras = self.metadata.core.optional_dependencies  # including what each extra brings along
        serving = [name for name, needs in extras.items() if set(extras["server"]) <= set(needs)]
        machines = " or ".join(f'platform_machine == "{machine}"' for machine in MACHINES)
        build_data["dependencies"] += [
            f'headrace-native=={self.metadata.version}; extra == "{name}" and sys_platform == "linux" and ({machines})'
            for name in serving
        ]
