"""Kubernetes objects against custom resource definitions, as an API server would take them.

A structural schema lets unknown fields pass, and the API server drops them without a word; here they are problems.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

Schema = Mapping[str, Any]

_OBJECT_META = {"name", "generateName", "namespace", "labels", "annotations", "finalizers"}


def load_schemas(folder: Path) -> dict[tuple[str, str], Schema]:
    """The schema of every served version in the folder's `*.yaml`, by (apiVersion, kind).

    Raises:
        LookupError: the folder holds no custom resource definition.
    """
    schemas: dict[tuple[str, str], Schema] = {}
    for path in sorted(folder.glob("*.yaml")):
        definition = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        if definition.get("kind") != "CustomResourceDefinition":
            continue
        spec = definition["spec"]
        for version in spec["versions"]:
            if version["served"]:
                key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                schemas[key] = version["schema"]["openAPIV3Schema"]
    if not schemas:
        raise LookupError(f"{folder} holds no custom resource definitions")
    return schemas


def problems(manifest: Mapping[str, Any], schema: Schema) -> list[str]:
    """What is wrong with an object: one line each, with its path; empty when nothing is."""
    validator = jsonschema.Draft202012Validator(schema)
    wrong = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]
    unknown_meta = set(manifest.get("metadata", {})) - _OBJECT_META
    wrong += [f"$.metadata.{name}: unknown field" for name in sorted(unknown_meta)]
    body = {name: value for name, value in manifest.items() if name not in {"apiVersion", "kind", "metadata"}}
    return wrong + [f"{path}: unknown field" for path in unknown_fields(body, schema, "$")]


def unknown_fields(value: Any, schema: Schema, path: str) -> Iterator[str]:
    """The paths of fields that the schema does not know, and that the API server would drop."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    if isinstance(value, Mapping):
        known = schema.get("properties", {})
        others = schema.get("additionalProperties", False)
        for name, inner in value.items():
            if name in known:
                yield from unknown_fields(inner, known[name], f"{path}.{name}")
            elif others is False:
                yield f"{path}.{name}"
            elif isinstance(others, Mapping):
                yield from unknown_fields(inner, others, f"{path}.{name}")
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from unknown_fields(inner, schema.get("items", {}), f"{path}[{position}]")
