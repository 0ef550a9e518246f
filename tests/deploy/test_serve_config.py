"""The Serve config of `k8s/` and of the chart: one application, the one that `stillhouse serve` runs."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pods import Manifest, one, pod_specs

ROOT = Path(__file__).resolve().parents[2]
RUN = "s3://my-bucket/runs/ticket-router"

RenderChart = Callable[..., list[Manifest]]


@pytest.fixture(scope="module")
def base_service(base: list[Manifest]) -> Manifest:
    """The RayService of `k8s/base`."""
    return one(base, "RayService")


@pytest.fixture(scope="module")
def chart_service(render_chart: RenderChart) -> Manifest:
    """The RayService of the chart, for the same run and Secrets as `k8s/base`."""
    secrets = "s3.existingSecret=stillhouse-s3,huggingFace.existingSecret=stillhouse-huggingface"
    return one(render_chart(f"run={RUN}", secrets, release="stillhouse"), "RayService")


@pytest.fixture(params=["base_service", "chart_service"])
def serve_config(request: pytest.FixtureRequest) -> Any:
    """Each `serveConfigV2` in turn, parsed."""
    return yaml.safe_load(request.getfixturevalue(request.param)["spec"]["serveConfigV2"])


def test_ray_serve_takes_it(serve_config: Any) -> None:
    from ray.serve.schema import HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

    parsed = ServeDeploySchema.model_validate(serve_config)
    assert (parsed.http_options.host, parsed.http_options.port) == ("0.0.0.0", 8000)
    # Serve ignores keys that it does not know.
    assert set(serve_config) <= set(ServeDeploySchema.model_fields)
    assert set(serve_config["http_options"]) <= set(HTTPOptionsSchema.model_fields)
    for application in serve_config["applications"]:
        assert set(application) <= set(ServeApplicationSchema.model_fields)


def test_it_names_the_application_that_serve_runs(serve_config: Any) -> None:
    (application,) = serve_config["applications"]
    assert application["import_path"] == "services.app:build"
    assert application["args"] == {"run": RUN}
    module, _, attribute = application["import_path"].partition(":")
    source = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    defined = {node.name for node in ast.parse(source.read_text()).body if isinstance(node, ast.FunctionDef)}
    assert attribute in defined


def comparable(service: Manifest) -> Manifest:
    """A RayService's spec without what may differ: names, labels, pull policy, and whether a Secret must exist."""
    copy: Manifest = yaml.safe_load(yaml.safe_dump(service["spec"]))
    copy["serveConfigV2"] = yaml.safe_load(copy["serveConfigV2"])
    for spec in pod_specs(copy):
        for container in spec["containers"]:
            container.pop("imagePullPolicy", None)
            for source in container["envFrom"]:
                source["secretRef"].pop("optional", None)
    cluster = copy["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        group["template"].pop("metadata")
    return copy


def test_the_chart_and_the_manifests_say_the_same(base_service: Manifest, chart_service: Manifest) -> None:
    assert comparable(chart_service) == comparable(base_service)
