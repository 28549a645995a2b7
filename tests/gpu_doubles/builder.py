"""The part of the `tensorrt` double that builds engines: it writes the requested settings into a plan."""

from collections.abc import Sequence
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import onnx

from .machine import Machine
from .owned import Owned
from .plans import Bounds, Plan, tensors

BuilderFlag = IntEnum("BuilderFlag", "TF32 REFIT", start=0)
MemoryPoolType = IntEnum("MemoryPoolType", "WORKSPACE TACTIC_DRAM", start=0)
NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH STRONGLY_TYPED", start=0)

UNSUPPORTED = {"StringNormalizer", "CategoryMapper", "LabelEncoder", "TfIdfVectorizer"}


class Network(Owned):
    def __init__(self, machine: Machine, flags: int) -> None:
        super().__init__(machine, "a network", 1)
        self.flags = flags
        self.model: onnx.ModelProto | None = None


class OnnxParser:
    def __init__(self, network: Network) -> None:
        self._network = network
        self._errors: list[str] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> str:
        return self._errors[index]

    def parse_from_file(self, model: str) -> bool:
        try:
            onnx.checker.check_model(model)
            self._network.model = onnx.load(model)
        except Exception as error:
            self._errors.append(f"In node -1 (parseFromFile): INVALID_GRAPH: {error}")
            return False
        for node in self._network.model.graph.node:
            if node.op_type in UNSUPPORTED:
                self._errors.append(f"In node 0 with operator: {node.op_type}: UNSUPPORTED_NODE")
        return not self._errors


class OptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, Bounds] = {}

    def set_shape(self, name: str, least: Sequence[int], usual: Sequence[int], most: Sequence[int]) -> None:
        if not all(low <= opt <= high for low, opt, high in zip(least, usual, most, strict=True)):
            raise RuntimeError("Shape provided for max is inconsistent with other shapes.")
        self.shapes[name] = (list(least), list(usual), list(most))


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class BuilderConfig(Owned):
    def __init__(self, machine: Machine) -> None:
        super().__init__(machine, "a configuration of a builder", 1)
        self.flags = {BuilderFlag.TF32}
        self.builder_optimization_level = 3
        self.progress_monitor: Any = None
        self.pools: dict[MemoryPoolType, int] = {}
        self.profiles: list[OptimizationProfile] = []
        self.timings: TimingCache | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self.pools[pool] = pool_size

    def add_optimization_profile(self, profile: OptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized: bytes) -> TimingCache | None:
        return TimingCache(serialized or b"TIMINGS:") if serialized[:8] in (b"", b"TIMINGS:") else None

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.timings = cache
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self.timings


class Builder(Owned):
    """The configuration of the last build is in the machine's `built_with`."""

    def __init__(self, machine: Machine, logger: Any, version: str) -> None:
        assert logger.initialized
        super().__init__(machine, "a builder", 1)
        self._logger = logger
        self._version = version

    def create_network(self, flags: int = 0) -> Network:
        strongly = bool(flags & 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        if int(self._version.partition(".")[0]) >= 11:
            if flags:
                raise self._machine.complain("create_network: flags that TensorRT 11 deprecates")
        elif not strongly:
            raise self._machine.complain("create_network: it is weakly typed")
        return Network(self._machine, flags)

    def create_builder_config(self) -> BuilderConfig:
        return BuilderConfig(self._machine)

    def create_optimization_profile(self) -> OptimizationProfile:
        return OptimizationProfile()

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> bytes | None:
        self._machine.enter("build_serialized_network")
        assert network.model is not None
        graph = network.model.graph
        varying = [name for name, t in tensors(graph.input, graph.initializer).items() if -1 in t.shape]
        profiles = [{name: profile.shapes[name] for name in varying} for profile in config.profiles]
        if varying and not profiles:
            text = "Network has dynamic or shape inputs, but no optimization profile has been defined."
            self._logger.log(self._logger.Severity.ERROR, text)
            return None
        self._machine.built_with = SimpleNamespace(**vars(config))
        monitor = config.progress_monitor
        assert monitor.initialized
        monitor.phase_start("Building Engine", None, 3)
        monitor.phase_start("Timing", "Building Engine", 2)
        for step in range(3):
            assert monitor.step_complete("Timing", 0)
            assert monitor.step_complete("Building Engine", step)
        monitor.phase_finish("Timing")
        monitor.phase_finish("Building Engine")
        if config.timings is not None:
            config.timings.content += b"conv;"
        return Plan(network.model.SerializeToString(), profiles, self._version).serialize()
