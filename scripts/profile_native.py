"""Reports where the CPU time of a small Predict goes on the native transport: python -m scripts.profile_native."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from scripts.bench.cases import CASES, Case, Load
from scripts.bench.contenders import NATIVE, Contender, contenders
from scripts.bench.load import Caller
from scripts.bench.machine import description
from scripts.bench.process import Server, running
from scripts.bench.requests import PREFIX_BYTES, checked_answer, framed, request
from scripts.stacks import group_of, stacks

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "profile"
REPORT = ROOT / "docs" / "benchmarks" / "native-profile.md"
HERTZ = 2_000
TOP = 25
_WHAT = """\
Written by `python -m scripts.profile_native`: `perf record` samples the server at {hertz:,} Hz, while h2load on the
same machine keeps {calls} calls in flight ({load}; {case}).
The module has the code of the released one, with symbols and frame pointers (`profile.profiling`). A sample counts for
the part of the server that has the innermost known function on its stack, so a copy counts for the code that copies."""


@dataclass(frozen=True)
class Profile:
    """The samples of the server, and the CPU microseconds of a request meanwhile: in all, and in user space."""

    groups: Counter[str]
    functions: Counter[tuple[str, str]]
    rate: float
    cpu_us: float


def main() -> int:
    """Builds, measures, and writes the report; returns 2 if perf or cargo is missing."""
    parser = argparse.ArgumentParser(prog="python -m scripts.profile_native", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--report", type=Path, default=REPORT)
    parser.add_argument("--connections", type=int, default=CASES[0].load.connections)
    parser.add_argument("--streams", type=int, default=CASES[0].load.streams)
    options = parser.parse_args()
    if missing := [tool for tool in ("perf", "cargo", "h2load") if shutil.which(tool) is None]:
        print(f"not found: {', '.join(missing)}", file=sys.stderr)
        return 2
    case = replace(CASES[0], load=Load(options.connections, options.streams))
    machine = description()
    _build()
    with tempfile.TemporaryDirectory(prefix="headrace-profile-") as folder:
        profile = _profiled(case, Path(folder), options.seconds)
    text = _report(machine, case, profile)
    options.report.write_text(text)
    print(text)
    return 0


def _build() -> None:
    """Installs a module with symbols and frame pointers where the server finds it first."""
    flags = {"RUSTFLAGS": "-C force-frame-pointers=yes"}
    command = ["cargo", "build", "--quiet", "--locked", "--lib", "--profile=profiling", "--target-dir=target/profile"]
    subprocess.run(command, cwd=ROOT / "native", env=os.environ | flags, check=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    library = ROOT / "native" / "target" / "profile" / "profiling" / "libheadrace_native.so"
    shutil.copyfile(library, BUILD / "headrace_native.abi3.so")


def _profiled(case: Case, folder: Path, seconds: float) -> Profile:
    base_path, message = folder / "model", folder / "message"
    case.save(base_path)
    row = case.rows(1)
    message.write_bytes(framed(request(case, row)))
    native = next(each for each in contenders(ROOT / "build" / "bench") if each.name == NATIVE)
    with running(partial(_command, native, case, base_path), folder / "log") as server:
        size = checked_answer(server.address, request(case, row), row[:, : case.outputs], values=False)
        caller = Caller(server.address, message, size + PREFIX_BYTES, case.load)
        count = round(caller.warm_up(2) * seconds)
        return _sampled(server, caller, count, folder / "perf.data")


def _command(native: Contender, case: Case, base_path: Path, port: int) -> Sequence[str]:
    return ["env", f"PYTHONPATH={BUILD}", *native.command(case, base_path, port)]


def _sampled(server: Server, caller: Caller, count: int, data: Path) -> Profile:
    record = ["perf", "record", "--quiet", f"--freq={HERTZ}", "-g", f"--pid={server.process.pid}", f"--output={data}"]
    before = server.cpu_seconds()
    sampling = subprocess.Popen(record, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    answers = caller.run(count)
    cpu = server.cpu_seconds() - before
    sampling.terminate()
    sampling.wait()
    script = ["perf", "script", f"--input={data}", "--fields=comm,ip,sym,dso"]
    text = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    groups: Counter[str] = Counter()
    functions: Counter[tuple[str, str]] = Counter()
    for stack in stacks(text.splitlines()):
        group = group_of(stack)
        groups[group] += 1
        functions[group, stack[0].name] += 1
    return Profile(groups, functions, answers.requests_per_second, cpu / count * 1e6)


def _report(machine: Sequence[str], case: Case, profile: Profile) -> str:
    samples = sum(profile.groups.values())
    parts = [
        "# Where the time of a small Predict goes",
        _WHAT.format(
            hertz=HERTZ, load=case.load, calls=case.load.connections * case.load.streams, case=case.title.lower()
        ),
        " ".join(machine),
        f"While it was sampled, the server answered {profile.rate:,.0f} requests/s and used {profile.cpu_us:.2f} us of "
        f"CPU for each ({samples:,} samples).",
        _table(("", "share", "us/request"), _groups(profile, samples)),
        "These functions have the most CPU time of their own:",
        _table(("function", "in", "us/request"), _functions(profile, samples)),
    ]
    return "\n\n".join(parts) + "\n"


def _groups(profile: Profile, samples: int) -> Iterator[tuple[str, ...]]:
    for group, count in profile.groups.most_common():
        share = count / samples
        yield group, f"{share:.1%}", f"{share * profile.cpu_us:.2f}"


def _functions(profile: Profile, samples: int) -> Iterator[tuple[str, ...]]:
    for (group, name), count in profile.functions.most_common(TOP):
        yield f"`{name[:90]}`", group, f"{count / samples * profile.cpu_us:.2f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---"] * len(heads)
    rule[-1] = "---:"
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))


if __name__ == "__main__":
    sys.exit(main())
