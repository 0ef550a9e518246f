"""What the deployment's tests share: the real tools, what they render, and KubeRay's schemas."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from crd_schema import Schema, load_schemas
from real_tools import KubernetesTools, call, unpack_kubernetes_tools

Manifest = dict[str, Any]
RenderChart = Callable[..., list[Manifest]]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tools() -> KubernetesTools:
    """The real helm and kubectl."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return unpack_kubernetes_tools(cache / "stillhouse" / "tools")


@pytest.fixture(scope="session")
def tool_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty home for the tools."""
    return tmp_path_factory.mktemp("tool-home")


@pytest.fixture(scope="session")
def base(tools: KubernetesTools, tool_home: Path) -> list[Manifest]:
    """Every object of `kubectl kustomize k8s/base`."""
    rendered = call(tools.kubectl, "kustomize", ROOT / "k8s" / "base", home=tool_home)
    assert rendered.returncode == 0, rendered.stderr
    return list(yaml.safe_load_all(rendered.stdout))


@pytest.fixture(scope="session")
def render_chart(tools: KubernetesTools, tool_home: Path) -> RenderChart:
    """Every object of `helm template`, with `--set` for each `name=value` given."""

    def render(*settings: str, release: str = "my-endpoint") -> list[Manifest]:
        sets = [part for setting in settings for part in ("--set", setting)]
        chart = ROOT / "helm" / "stillhouse"
        rendered = call(tools.helm, "template", release, chart, "--namespace", "apps", *sets, home=tool_home)
        assert rendered.returncode == 0, rendered.stderr
        return [manifest for manifest in yaml.safe_load_all(rendered.stdout) if manifest]

    return render


@pytest.fixture(scope="session")
def kuberay_schemas() -> dict[tuple[str, str], Schema]:
    """KubeRay's schemas by (apiVersion, kind), from the folder that KUBERAY_CRDS names."""
    folder = os.environ.get("KUBERAY_CRDS")
    if not folder:
        pytest.skip(
            "set KUBERAY_CRDS to a folder with KubeRay's custom resource definitions"
            " (helm-chart/kuberay-operator/crds of its v1.7.0) to validate Ray objects"
        )
    return load_schemas(Path(folder))
