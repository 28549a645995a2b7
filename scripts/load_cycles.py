"""Loads and unloads a model a hundred times and records the server's memory: python -m scripts.load_cycles."""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import grpc

from headrace_protos import ModelVersionStatus
from scripts.bench.machine import description
from scripts.bench.process import Server, running
from scripts.versions import PREDICT, models, predict_request, reload, states, write_version

CYCLES, WARM = 100, 10
WINDOW = 10  # cycles per median: a single reading is a few MB too high or too low
LIMIT = 1.05
PATIENCE = 30.0
REPORT = Path(__file__).parents[1] / "docs" / "operations" / "load_cycles.md"


def main() -> int:
    """Measures, and writes the report; returns 1 if the memory has grown by more than the limit."""
    machine = description()
    with tempfile.TemporaryDirectory(prefix="headrace-cycles-") as folder:
        root = Path(folder)
        write_version(root / "m" / "1", 1, width=512, layers=20)
        megabytes = (root / "m" / "1" / "model.onnx").stat().st_size / 1e6
        empty = root / "models.config"
        empty.write_text(str(models(root)))
        with running(lambda port: _command(port, empty), root / "log") as server:
            resident = _resident(server, root)
    grown = _median(resident, CYCLES) / _median(resident, WARM + WINDOW - 1)
    text = _report(machine, megabytes, resident, grown)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(text)
    print(text)
    return 0 if grown <= LIMIT else 1


def _command(port: int, config: Path) -> list[str]:
    return [
        str(Path(sys.executable).with_name("headrace")),
        "serve",
        f"--port={port}",
        f"--model_config_file={config}",
    ]


def _resident(server: Server, root: Path) -> dict[int, int]:
    """The resident memory in bytes after each cycle, and before the first."""
    resident = {0: _rss(server)}
    request = predict_request("m", 512)
    with grpc.insecure_channel(server.address) as channel:
        predict: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PREDICT)
        for cycle in range(1, CYCLES + 1):
            reload(channel, models(root, "m"))
            for _ in range(8):
                predict(request, timeout=PATIENCE)
            reload(channel, models(root))
            _await_end(channel)
            resident[cycle] = _rss(server)
    return resident


def _await_end(channel: grpc.Channel) -> None:
    until = time.monotonic() + PATIENCE
    while states(channel, "m")[1] != ModelVersionStatus.END:
        if time.monotonic() > until:
            raise TimeoutError("the model is still loaded")
        time.sleep(0.005)


def _median(resident: dict[int, int], last: int) -> float:
    """The median of the window that ends with a cycle."""
    return median(resident[cycle] for cycle in range(last - WINDOW + 1, last + 1))


def _rss(server: Server) -> int:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) * 1024


def _report(machine: list[str], megabytes: float, resident: dict[int, int], grown: float) -> str:
    warm = [rss for cycle, rss in resident.items() if cycle >= WARM]
    rows = "\n".join(f"| {cycle} | {resident[cycle] / 1e6:.1f} |" for cycle in (0, 1, WARM, 25, 50, 75, CYCLES))
    return (
        "# Memory over a hundred loads and unloads\n\n"
        "Written by `python -m scripts.load_cycles`. Each cycle loads a model of "
        f"{megabytes:.0f} MB by HandleReloadConfigRequest, calls it eight times, and unloads it; then the server's "
        "resident memory is read.\n\n"
        f"{' '.join(machine)}\n\n"
        f"| after cycle | resident MB |\n| ---: | ---: |\n{rows}\n\n"
        f"The median of the last {WINDOW} cycles is {grown:.3f} times the median of the {WINDOW} cycles after cycle "
        f"{WARM}; the target is at most {LIMIT}. After cycle {WARM}, the readings were between {min(warm) / 1e6:.1f} "
        f"and {max(warm) / 1e6:.1f} MB.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
