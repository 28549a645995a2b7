"""Builds the CPU image with buildah, without a registry, and runs it by crun as a hardened container."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

PIP_CONFIGURATION = "[global]\nno-index = true\nfind-links = /wheelhouse\nbreak-system-packages = true\n"

_CRUN = (*("unshare", "--mount", "sh", "-c"), 'umount -l /sys/fs/cgroup/unified 2>/dev/null; exec crun "$@"', "crun")
"""Runs crun without version 2 of cgroups, since crun refuses to start where both versions are mounted."""


class Images:
    """A separate store of images.

    Args:
        folder: The folder for it; until `close`, it contains files owned by root.
    """

    def __init__(self, folder: Path) -> None:
        self._command = ["buildah", "--root", str(folder / "images"), "--runroot", str(folder / "run")]

    def add_bases(self, parts: Path, configuration: Path) -> None:
        """Makes `localhost/base`, and `localhost/build` with pip and all packages as wheels.

        Args:
            parts: The folder that scripts/test-image has prepared: `root`, a Debian, and `wheels`.
            configuration: The file for pip's configuration.
        """
        configuration.write_text(PIP_CONFIGURATION)
        base = self.run("from", "scratch").strip()
        self.run("copy", "--quiet", base, parts / "root", "/")
        self.run("commit", "--quiet", base, "localhost/base")
        build = self.run("from", "--pull-never", "localhost/base").strip()
        self.run("copy", "--quiet", build, parts / "wheels", "/wheelhouse")
        self.run("copy", "--quiet", build, configuration, "/etc/pip.conf")
        install = "PYTHONPATH=$(echo /wheelhouse/pip-*.whl) python3 -m pip install --root-user-action=ignore pip"
        self.run("run", "--isolation=chroot", build, "--", "sh", "-c", install)
        self.run("commit", "--quiet", build, "localhost/build")

    def build(self, context: Path, tag: str) -> None:
        """Builds docker/Dockerfile.cpu from the wheels in the context's `dist`."""
        arguments = ["BASE_IMAGE=localhost/base", "BUILD_IMAGE=localhost/build", "WHEELS=dist"]
        named = [f"--build-arg={each}" for each in arguments]
        how = ["--isolation=chroot", "--pull-never", "--format=docker"]
        self.run("bud", *how, *named, "--file", context / "docker" / "Dockerfile.cpu", "--tag", tag, context)

    def about(self, tag: str) -> dict[str, Any]:
        """An image's configuration, in Docker's format."""
        configuration: dict[str, Any] = json.loads(self.run("inspect", "--type=image", tag))["Docker"]["config"]
        return configuration

    def layers(self, tag: str) -> list[int]:
        """The sizes of an image's layers in bytes, the base layer first."""
        manifest = json.loads(json.loads(self.run("inspect", "--type=image", tag))["Manifest"])
        return [layer["size"] for layer in manifest["layers"]]

    def mounted(self, tag: str) -> Path:
        """An image's files, as a folder."""
        container = self.run("from", "--pull-never", tag).strip()
        return Path(self.run("mount", container).strip())

    def close(self) -> None:
        """Removes everything."""
        self.run("umount", "--all")
        self.run("rm", "--all")
        self.run("rmi", "--all", "--force")

    def run(self, *arguments: str | Path) -> str:
        """Runs buildah and returns its output."""
        done = subprocess.run([*self._command, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout


def make_context(folder: Path, dist: Path) -> None:
    """Copies the files that an image built from wheels needs, and the wheels."""
    shutil.copytree(ROOT / "docker", folder / "docker")
    for name in (".dockerignore", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(dist, folder / "dist")


class Container:
    """A running container: its root is read-only, its user has no capabilities, and its network is empty.

    Args:
        folder: The folder for its bundle.
        root: The image's files.
        image: The image's configuration.
        arguments: The arguments of the entry point.
        mounts: Folders of the host by their paths in the container; one that ends in `:ro` is read-only.
    """

    def __init__(
        self, folder: Path, root: Path, image: dict[str, Any], arguments: Sequence[str], mounts: dict[str, Path]
    ) -> None:
        self._name = f"headrace-{os.getpid()}"
        self._state = ["--root", str(folder / "state"), "--cgroup-manager=disabled"]
        subprocess.run(["crun", "spec"], cwd=folder, check=True, capture_output=True)
        bundle = folder / "config.json"
        bundle.write_text(json.dumps(_hardened(json.loads(bundle.read_text()), root, image, arguments, mounts)))
        self.log = folder / "log"
        with self.log.open("wb") as log:
            command = [*_CRUN, *self._state, "run", f"--pid-file={folder / 'pid'}", self._name]
            self._process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        self._pid = folder / "pid"

    @property
    def is_running(self) -> bool:
        """Whether the container is still running."""
        return self._process.poll() is None

    def inside(self, *command: str) -> int:
        """The exit status of a command that runs in the container, as a health check does."""
        return subprocess.run([*_CRUN, *self._state, "exec", self._name, *command], capture_output=True).returncode

    def call(self, script: str) -> "subprocess.Popen[str]":
        """Starts a Python script that sees this machine's files and the container's network."""
        command = ["nsenter", f"--net=/proc/{self._pid.read_text().strip()}/ns/net", sys.executable, "-c", script]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def terminate(self) -> None:
        """Sends SIGTERM to the container's first process."""
        subprocess.run([*_CRUN, *self._state, "kill", self._name, "TERM"], check=True)

    def ended(self, within: float) -> int:
        """Waits for the container to end, and returns its exit status."""
        return self._process.wait(within)

    def close(self) -> None:
        """Kills the container."""
        subprocess.run([*_CRUN, *self._state, "delete", "--force", self._name], capture_output=True)
        self._process.kill()
        self._process.wait()


def _hardened(
    bundle: dict[str, Any], root: Path, image: dict[str, Any], arguments: Sequence[str], mounts: dict[str, Path]
) -> dict[str, Any]:
    user, group = map(int, image["User"].split(":"))
    process = bundle["process"]
    process.update(
        terminal=False,
        user={"uid": user, "gid": group},
        args=[*image["Entrypoint"], *arguments],
        env=image["Env"],
        capabilities={kind: [] for kind in process["capabilities"]},
        noNewPrivileges=True,
        rlimits=[],
    )
    bundle["root"] = {"path": str(root), "readonly": True}
    bundle["mounts"] = [mount for mount in bundle["mounts"] if mount["type"] not in ("sysfs", "cgroup")]
    for inside, outside in mounts.items():
        path, _, read_only = inside.partition(":")
        options = ["rbind", read_only or "rw"]
        bundle["mounts"].append({"destination": path, "type": "bind", "source": str(outside), "options": options})
    return bundle
