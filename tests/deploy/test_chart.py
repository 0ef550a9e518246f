"""`helm/stillhouse`, as Helm lints, renders and refuses it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pods import Manifest, cluster_spec, gpus, kinds, one, pod_specs
from real_tools import KubernetesTools, call

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "stillhouse"
RUN = "run=s3://my-bucket/runs/ticket-router"

RenderChart = Callable[..., list[Manifest]]


def workers(manifests: list[Manifest]) -> dict[str, Manifest]:
    return {group["groupName"]: group for group in cluster_spec(one(manifests, "RayService"))["workerGroupSpecs"]}


def test_lint_finds_nothing(tools: KubernetesTools, tool_home: Path) -> None:
    linted = call(tools.helm, "lint", "--strict", CHART, "--set", RUN, home=tool_home)
    assert linted.returncode == 0, linted.stdout
    assert "1 chart(s) linted, 0 chart(s) failed" in linted.stdout


def test_the_run_is_all_that_must_be_set(render_chart: RenderChart) -> None:
    assert kinds(render_chart(RUN)) == [
        ("v1", "PersistentVolumeClaim", "my-endpoint-stillhouse-models"),
        ("ray.io/v1", "RayService", "my-endpoint-stillhouse"),
        ("v1", "ServiceAccount", "my-endpoint-stillhouse"),
    ]


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("run=", "/run"),
        ("run=runs/ticket-router", "/run"),
        ("runs=s3://my-bucket/runs/x", "runs"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("image.digest=sha256:12", "/image/digest"),
        ("ray.version=latest", "/ray/version"),
        ("http.port=80", "/http/port"),
        ("http.port=eighty", "/http/port"),
        ("upgradeStrategy=Recreate", "/upgradeStrategy"),
        ("fullnameOverride=9lives", "/fullnameOverride"),
        ("models.size=big", "/models/size"),
        ("models.accessModes={ReadOnlyMany}", "/models/accessModes/0"),
        ("models.persistent=false,models.existingClaim=weights", "/models/existingClaim"),
        ("serviceAccount.create=false,serviceAccount.annotations.role=x", "/serviceAccount/annotations"),
        ("workerGroups.student.replicas=0", "/workerGroups/student/replicas"),
        ("workerGroups.student.replica=2", "'replica'"),
        ("workerGroups.student.resources.limits.memory=lots", "/workerGroups/student/resources/limits/memory"),
        ("workerGroups.Extra.replicas=1", "Extra"),
        ("workerGroups.student=null,workerGroups.teacher=null", "/workerGroups"),
        ("head.resources=null", "/head"),
        ("s3.secret=keys", "'secret'"),
    ],
)
def test_a_wrong_value_is_refused_by_name(tools: KubernetesTools, tool_home: Path, setting: str, name: str) -> None:
    refused = call(tools.helm, "template", "my-endpoint", CHART, "--set", RUN, "--set", setting, home=tool_home)
    assert refused.returncode != 0
    assert "values don't meet the specifications of the schema" in refused.stderr
    assert name in refused.stderr.split("stillhouse:", 1)[1]


def test_every_value_is_described_and_in_the_schema() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values) <= set(yaml.safe_load((CHART / "values.schema.json").read_text())["properties"])
    # Groups of values are described by their values, all others right above.
    groups = {"image", "ray", "serviceAccount", "s3", "huggingFace", "models", "http", "head"}
    for name in set(values) - groups:
        above = lines[[line.split(":")[0] for line in lines].index(name) - 1]
        assert above.startswith("# "), f"{name} is not described"
    for group in groups:
        start = lines.index(f"{group}:")
        for name in values[group]:
            place = next(n for n, line in enumerate(lines) if n > start and line.startswith(f"  {name}:"))
            assert lines[place - 1].startswith("  # "), f"{group}.{name} is not described"


def test_notes_say_the_next_command_for_this_release(tools: KubernetesTools, tool_home: Path) -> None:
    options = ["--namespace", "apps", "--dry-run=client", "--set", RUN, "--set", "http.port=9000"]
    installed = call(tools.helm, "install", "my-endpoint", CHART, *options, home=tool_home)
    assert installed.returncode == 0, installed.stderr
    notes = installed.stdout.split("NOTES:", 1)[1]
    assert "s3://my-bucket/runs/ticket-router" in notes
    assert "kubectl wait -n apps rayservice/my-endpoint-stillhouse --for=condition=Ready" in notes
    assert "kubectl port-forward -n apps service/my-endpoint-stillhouse-serve-svc 9000:9000" in notes
    assert "curl http://127.0.0.1:9000/v1/models" in notes


def test_versions_agree_with_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["appVersion"] == chart["version"] == project["version"]


def test_the_port_reaches_containers_and_serve(render_chart: RenderChart) -> None:
    service = one(render_chart(RUN, "http.port=9000"), "RayService")
    assert yaml.safe_load(service["spec"]["serveConfigV2"])["http_options"]["port"] == 9000
    ports = [c["ports"] for spec in pod_specs(service) for c in spec["containers"]]
    assert len(ports) == 3
    assert all({"name": "serve", "containerPort": 9000} in port for port in ports)


def test_a_run_cannot_break_out_of_the_serve_config(render_chart: RenderChart) -> None:
    run = 's3://my-bucket/"run":#{x}:'
    service = one(render_chart(f"run={run}"), "RayService")
    assert yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"] == {"run": run}


def test_a_group_can_be_left_out_and_another_added(render_chart: RenderChart) -> None:
    added = "workerGroups.large.replicas=2,workerGroups.large.resources.requests.cpu=8"
    resources = "workerGroups.large.resources.requests.memory=1Gi,workerGroups.large.resources.limits.memory=1Gi"
    groups = workers(render_chart(RUN, "workerGroups.teacher=null", added, resources))
    assert set(groups) == {"student", "large"}
    assert (groups["large"]["minReplicas"], groups["large"]["replicas"], groups["large"]["maxReplicas"]) == (2, 2, 2)
    assert gpus(groups["large"]["template"]["spec"]["containers"][0]) == 0


def test_secrets_are_named_never_held(render_chart: RenderChart) -> None:
    manifests = render_chart(RUN, "s3.existingSecret=keys", "huggingFace.existingSecret=hub")
    expected = [{"secretRef": {"name": "keys"}}, {"secretRef": {"name": "hub"}}]
    containers = [c for spec in pod_specs(manifests) for c in spec["containers"]]
    assert [container["envFrom"] for container in containers] == [expected] * 3
    plain = [c for spec in pod_specs(render_chart(RUN)) for c in spec["containers"]]
    assert all("envFrom" not in container for container in plain)


def test_the_account_can_be_bound_to_a_role(render_chart: RenderChart) -> None:
    role = r"serviceAccount.annotations.eks\.amazonaws\.com/role-arn=arn:aws:iam::123456789012:role/reader"
    manifests = render_chart(RUN, role)
    account = one(manifests, "ServiceAccount")
    assert account["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/reader"}
    assert {spec["serviceAccountName"] for spec in pod_specs(manifests)} == {account["metadata"]["name"]}


def test_an_account_made_elsewhere_is_used(render_chart: RenderChart) -> None:
    manifests = render_chart(RUN, "serviceAccount.create=false", "serviceAccount.name=reader")
    assert "ServiceAccount" not in {m["kind"] for m in manifests}
    assert {spec["serviceAccountName"] for spec in pod_specs(manifests)} == {"reader"}


def models_volume(manifests: list[Manifest]) -> Any:
    (volume,) = {
        yaml.safe_dump(volume)
        for spec in pod_specs(manifests)
        for volume in spec["volumes"]
        if volume["name"] == "models"
    }
    return yaml.safe_load(volume)


def test_models_lie_on_a_claim_made_here(render_chart: RenderChart) -> None:
    manifests = render_chart(RUN, "models.size=1Ti", "models.storageClass=shared")
    claim = one(manifests, "PersistentVolumeClaim")
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "shared",
        "resources": {"requests": {"storage": "1Ti"}},
    }
    assert models_volume(manifests)["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}


def test_models_lie_on_a_claim_made_elsewhere(render_chart: RenderChart) -> None:
    manifests = render_chart(RUN, "models.existingClaim=weights")
    assert "PersistentVolumeClaim" not in {m["kind"] for m in manifests}
    assert models_volume(manifests)["persistentVolumeClaim"] == {"claimName": "weights"}


def test_models_may_lie_with_each_pod(render_chart: RenderChart) -> None:
    manifests = render_chart(RUN, "models.persistent=false")
    assert "PersistentVolumeClaim" not in {m["kind"] for m in manifests}
    assert models_volume(manifests) == {"name": "models", "emptyDir": {}}


@pytest.mark.parametrize(
    ("settings", "image"),
    [
        ((), "stillhouse:0.1.0"),
        (
            ("image.repository=registry.example:5000/ml/stillhouse", "image.tag=1.2.3-cpu"),
            "registry.example:5000/ml/stillhouse:1.2.3-cpu",
        ),
        (("image.tag=ignored", f"image.digest=sha256:{'0' * 64}"), f"stillhouse@sha256:{'0' * 64}"),
    ],
)
def test_the_image_is_the_one_set(render_chart: RenderChart, settings: tuple[str, ...], image: str) -> None:
    specs = list(pod_specs(render_chart(RUN, *settings)))
    assert {container["image"] for spec in specs for container in spec["containers"]} == {image}


@pytest.mark.parametrize(
    ("release", "settings", "name"),
    [
        ("my-endpoint", (), "my-endpoint-stillhouse"),
        ("stillhouse", (), "stillhouse"),
        ("my-endpoint", ("nameOverride=tickets",), "my-endpoint-tickets"),
        ("my-endpoint", ("fullnameOverride=tickets",), "tickets"),
        ("a-release-with-a-name-of-forty-five-characters", (), "a-release-with-a-name-of-forty-five-characters"),
    ],
)
def test_names_fit_what_kuberay_allows(
    render_chart: RenderChart, release: str, settings: tuple[str, ...], name: str
) -> None:
    assert one(render_chart(RUN, *settings, release=release), "RayService")["metadata"]["name"] == name
    assert len(name) <= 47


def test_a_name_that_kuberay_would_refuse_is_refused_here(tools: KubernetesTools, tool_home: Path) -> None:
    refused = call(tools.helm, "template", "7stills", CHART, "--set", RUN, home=tool_home)
    assert refused.returncode != 0
    assert 'the name "7stills-stillhouse" must start with a letter' in refused.stderr
    assert "set fullnameOverride" in refused.stderr
