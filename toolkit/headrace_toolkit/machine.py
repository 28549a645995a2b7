"""Describes the machine and its libraries as far as measurements depend on them, without names of hosts or users."""

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = (
    "headrace numpy onnx onnxruntime onnxslim onnxscript torch torch-pruning tensorflow-cpu keras tf2onnx "
    "ai-edge-litert scikit-learn skl2onnx onnxmltools xgboost-cpu xgboost lightgbm skops"
).split()

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


@dataclass(frozen=True, slots=True)
class Machine:
    """The processor that the models were measured on.

    Attributes:
        architecture: The architecture, such as `x86_64`.
        flags: The instruction sets that affect the speed of models.
        threads: The number of threads of a measured run.
    """

    architecture: str
    flags: tuple[str, ...]
    threads: int = 1

    @property
    def vnni(self) -> bool:
        """Whether products of 8-bit numbers are summed in 32 bits, so that 8-bit weights do not saturate."""
        return any("vnni" in flag for flag in self.flags)

    def document(self) -> dict[str, object]:
        """The machine, as data for JSON."""
        return {"architecture": self.architecture, "avx2": "avx2" in self.flags, "vnni": self.vnni,
                "flags": list(self.flags), "threads": self.threads}  # fmt: skip


def this_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    """The current processor; without flags if the system does not report them."""
    try:
        words = set(cpuinfo.read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        words = set()
    return Machine(platform.machine(), tuple(flag for flag in _FLAGS if flag in words))


def versions(libraries: Iterable[str] = _LIBRARIES) -> Mapping[str, str]:
    """The versions of the installed libraries, and Python's."""
    found = {"python": platform.python_version()}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
