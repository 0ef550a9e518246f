"""Finding Pods and containers inside rendered objects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Manifest = dict[str, Any]


def one(manifests: list[Manifest], kind: str) -> Manifest:
    """The only object of a kind."""
    found = [manifest for manifest in manifests if manifest["kind"] == kind]
    assert len(found) == 1, f"{len(found)} objects of kind {kind}"
    return found[0]


def kinds(manifests: list[Manifest]) -> list[tuple[str, str, str]]:
    """(apiVersion, kind, name) of every object, sorted by kind and name."""
    found = [(m["apiVersion"], m["kind"], m["metadata"]["name"]) for m in manifests]
    return sorted(found, key=lambda entry: entry[1:])


def cluster_spec(manifest: Manifest) -> Manifest:
    """The RayCluster that a RayJob or a RayService describes."""
    spec: Manifest = manifest["spec"]
    found: Manifest = spec["rayClusterSpec"] if manifest["kind"] == "RayJob" else spec["rayClusterConfig"]
    return found


def pod_specs(value: Any) -> Iterator[Manifest]:
    """Every Pod spec at any depth: a mapping with `containers`."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for inner in value.values():
            yield from pod_specs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pod_specs(inner)


def gpus(container: Manifest) -> int:
    """The GPUs that a container asks for."""
    return int(container["resources"]["limits"].get("nvidia.com/gpu", 0))
