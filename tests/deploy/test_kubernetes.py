"""The Helm chart, the KServe runtimes and the systemd unit, checked by the tools for their formats."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headrace_server.commands.flags import FLAGS

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "headrace"
KUBE_VERSION = "1.31.0"

FLAG = re.compile(r"--([a-z_]+)=")

VALUES: dict[str, list[str]] = {
    "as it is": [],
    "several models": ["modelConfig=model_config_list {}"],
    "one replica": ["replicas=1", "podDisruptionBudget.enabled=false"],
    "an HPA": ["autoscaling.kind=hpa", "autoscaling.maxReplicas=50"],
    "KEDA": ["autoscaling.kind=keda"],
    "a network policy": ["networkPolicy.enabled=true", "networkPolicy.from[0].namespaceSelector.matchLabels.a=b"],
    "a service monitor": ["serviceMonitor.enabled=true", "serviceMonitor.labels.release=prometheus"],
    "a digest": [f"image.digest=sha256:{'0' * 64}", "imagePullSecrets[0].name=secret"],
    "a store": [
        "model.basePath=s3://bucket/model",
        "env[0].name=AWS_REGION",
        "env[0].value=eu-west-1",
        "envFrom[0].secretRef.name=aws",
        "cache.existingClaim=models",
    ],
    "a claim of models": [
        "volumes[0].name=models",
        "volumes[0].persistentVolumeClaim.claimName=models",
        "volumeMounts[0].name=models",
        "volumeMounts[0].mountPath=/models",
    ],
    "a GPU": ["resources.limits.nvidia\\.com/gpu=1", "nodeSelector.gpu=h100", "tolerations[0].operator=Exists"],
    "no headless service": ["service.headless=false", "service.type=LoadBalancer", "topologySpread.enabled=false"],
}


def tool(name: str, variable: str) -> str:
    found = os.environ.get(variable) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is missing: run `make test-kubernetes`, which installs it, or set {variable}")
    return found


def helm(*arguments: str) -> str:
    run = subprocess.run(
        [tool("helm", "HEADRACE_HELM"), *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def template(values: list[str], name: str = "release") -> str:
    settings = [part for value in values for part in ("--set", value)]
    return helm("template", name, str(CHART), "--kube-version", KUBE_VERSION, *settings)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_kubernetes_accepts_the_output_of_the_chart(values: list[str], tmp_path: Path) -> None:
    validate = tool("kubernetes-validate", "HEADRACE_KUBERNETES_VALIDATE")
    made = template(values)
    own = [part for part in made.split("\n---\n") if not re.search(r"^apiVersion: (keda|monitoring)\.", part, re.M)]
    file = tmp_path / "made.yaml"
    file.write_text("\n---\n".join(own))
    run = subprocess.run([validate, "--strict", str(file)], capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    assert set(FLAG.findall(made)) <= set(FLAGS)


def test_the_chart_is_linted() -> None:
    helm("lint", "--strict", str(CHART))


def test_an_invalid_kind_of_autoscaling() -> None:
    command = [tool("helm", "HEADRACE_HELM"), "template", "r", str(CHART), "--set", "autoscaling.kind=vpa"]
    run = subprocess.run(
        [*command, "--kube-version", KUBE_VERSION], capture_output=True, text=True, check=False, timeout=60
    )
    assert "autoscaling.kind must be hpa, keda, or empty; was vpa" in run.stderr


def test_the_plain_manifests_are_those_of_the_chart() -> None:
    made = template([], name="headrace")
    assert (DEPLOY / "kubernetes" / "headrace.yaml").read_text().split("---\n", 1)[1] == made.split("---\n", 1)[1]


@pytest.mark.parametrize(
    "file", ["kserve/serving-runtime.yaml", "kserve/cluster-serving-runtime.yaml", "systemd/headrace.service"]
)
def test_every_flag_of_the_manifests_exists(file: str) -> None:
    found = FLAG.findall((DEPLOY / file).read_text())
    assert found
    assert set(found) <= set(FLAGS)


@pytest.mark.parametrize("kind", ["servingruntimes", "clusterservingruntimes"])
def test_kserve_takes_the_runtimes(kind: str) -> None:
    validate = tool("kubernetes-validate", "HEADRACE_KUBERNETES_VALIDATE")
    crds = Path(os.environ.get("HEADRACE_KSERVE_CRDS", "/nowhere"))
    if not (crds / f"{kind}.yaml").exists():
        pytest.skip("HEADRACE_KSERVE_CRDS names no folder with KServe's definitions")
    file = "serving-runtime.yaml" if kind == "servingruntimes" else "cluster-serving-runtime.yaml"
    python = Path(validate).with_name("python")  # this Python has jsonschema and yaml
    program = """
import json, sys, jsonschema, yaml
definition, made = (yaml.safe_load(open(path)) for path in sys.argv[1:])
schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
def strict(node):
    if isinstance(node, dict):
        if node.get("type") == "object" and "properties" in node and "additionalProperties" not in node:
            node["additionalProperties"] = node.get("x-kubernetes-preserve-unknown-fields", False)
        if node.pop("x-kubernetes-int-or-string", False):
            node.clear()
        for child in node.values():
            strict(child)
    elif isinstance(node, list):
        for child in node:
            strict(child)
strict(schema["properties"]["spec"])
print(json.dumps([error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(made)]))
"""
    run = subprocess.run(
        [str(python), "-c", program, str(crds / f"{kind}.yaml"), str(DEPLOY / "kserve" / file)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert json.loads(run.stdout) == []


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "headrace.service"
    text = (DEPLOY / "systemd" / "headrace.service").read_text()
    unit.write_text(text.replace("/opt/headrace/bin/headrace", sys.executable))
    run = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
