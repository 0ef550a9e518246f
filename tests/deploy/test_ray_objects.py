"""Every Ray object that the project renders, against KubeRay: its schemas, and what its operator refuses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from crd_schema import Schema, problems
from pods import Manifest, cluster_spec, one, pod_specs

ROOT = Path(__file__).resolve().parents[2]
RUN = "run=s3://my-bucket/runs/ticket-router"

RAY_OBJECTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "base-job": ("RayJob", ()),
    "base-service": ("RayService", ()),
    "chart-defaults": ("RayService", (RUN,)),
    "chart-with-everything": (
        "RayService",
        (
            RUN,
            "imagePullSecrets[0].name=registry",
            "s3.existingSecret=keys,huggingFace.existingSecret=hub",
            "upgradeStrategy=None,http.port=9000,models.persistent=false",
            "head.nodeSelector.pool=cpu,workerGroups.student.nodeSelector.pool=l4",
            "head.tolerations[0].key=cpu,head.tolerations[0].operator=Exists",
            "workerGroups.student.resources.limits.cpu=2,workerGroups.student.replicas=3,workerGroups.teacher=null",
        ),
    ),
}


@pytest.fixture(params=RAY_OBJECTS)
def ray_object(request: pytest.FixtureRequest) -> Manifest:
    """Each Ray object in turn."""
    kind, settings = RAY_OBJECTS[request.param]
    if not settings:
        return one(request.getfixturevalue("base"), kind)
    render_chart: Callable[..., list[Manifest]] = request.getfixturevalue("render_chart")
    return one(render_chart(*settings), kind)


def test_kuberay_takes_every_field(ray_object: Manifest, kuberay_schemas: Mapping[tuple[str, str], Schema]) -> None:
    schema = kuberay_schemas[ray_object["apiVersion"], ray_object["kind"]]
    assert problems(ray_object, schema) == []


def test_kuberay_would_drop_a_misspelt_field(
    base: list[Manifest], kuberay_schemas: Mapping[tuple[str, str], Schema]
) -> None:
    job = one(base, "RayJob")
    misspelt = {**job, "spec": {**job["spec"], "shutdownAfterJobFinish": True}}
    schema = kuberay_schemas["ray.io/v1", "RayJob"]
    assert problems(misspelt, schema) == ["$.spec.shutdownAfterJobFinish: unknown field"]


def test_the_name_leaves_room_for_what_kuberay_appends(ray_object: Manifest) -> None:
    name = ray_object["metadata"]["name"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 47


def test_worker_groups_are_of_a_fixed_size(ray_object: Manifest) -> None:
    groups = cluster_spec(ray_object)["workerGroupSpecs"]
    assert groups
    assert len({group["groupName"] for group in groups}) == len(groups)
    for group in groups:
        # Without the autoscaler KubeRay refuses a group that lacks either bound.
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"] >= 1


def test_the_head_runs_no_engine(ray_object: Manifest) -> None:
    head = cluster_spec(ray_object)["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_the_ray_version_is_the_locked_one(ray_object: Manifest) -> None:
    for lock in ("cpu", "cuda"):
        pinned = re.search(r"^ray==(\S+)$", (ROOT / "requirements" / f"{lock}.txt").read_text(), re.MULTILINE)
        assert pinned is not None
        assert cluster_spec(ray_object)["rayVersion"] == pinned[1]


def test_pods_pass_the_restricted_security_standard(ray_object: Manifest) -> None:
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    specs = list(pod_specs(ray_object))
    assert len(specs) >= 2
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= allowed
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert not context.get("privileged")
            assert not any("hostPort" in port for port in container.get("ports", []))


def test_containers_say_what_they_need(ray_object: Manifest) -> None:
    for spec in pod_specs(ray_object):
        for container in spec["containers"]:
            resources: dict[str, Any] = container["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"])
            assert "memory" in resources["limits"]
            # Kubernetes refuses GPUs whose request differs from their limit.
            assert resources["requests"].get("nvidia.com/gpu") == resources["limits"].get("nvidia.com/gpu")


def test_every_mount_has_its_volume(ray_object: Manifest) -> None:
    for spec in pod_specs(ray_object):
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        for container in spec["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes


def test_no_key_is_written_into_an_object(ray_object: Manifest) -> None:
    for spec in pod_specs(ray_object):
        for container in spec["containers"]:
            names = {variable["name"] for variable in container.get("env", [])}
            assert names <= {"HF_HOME"}, "credentials come from Secrets or from the account's role"


# KubeRay writes the probes of a RayJob.
@pytest.mark.parametrize(
    "ray_object", [name for name, (kind, _) in RAY_OBJECTS.items() if kind == "RayService"], indirect=True
)
def test_an_endpoint_is_ready_when_it_can_answer(ray_object: Manifest) -> None:
    spec = cluster_spec(ray_object)
    templates = [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
    head, *workers = (template["spec"]["containers"][0] for template in templates)
    assert head["readinessProbe"]["httpGet"] == {"path": "/api/healthz", "port": 52365}
    for container in workers:
        assert container["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": "serve"}
        assert "serve" in {port["name"] for port in container["ports"]}
    for container in (head, *workers):
        probe = container["livenessProbe"]
        assert probe["httpGet"] == {"path": "/api/healthz", "port": 52365}
        assert probe["periodSeconds"] * probe["failureThreshold"] >= 600
