"""The validation of objects against custom resource definitions itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from crd_schema import load_schemas, problems

STILL = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "properties": {
                "litres": {"type": "integer", "format": "int32"},
                "memory": {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "pipes": {
                    "type": "array",
                    "items": {"type": "object", "properties": {"name": {"type": "string"}}},
                },
                "notes": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
            },
        },
    },
}


def still(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "example.org/v1", "kind": "Still", "metadata": {"name": "copper"}, "spec": spec}


def test_an_object_of_known_fields_has_no_problems() -> None:
    good = still(litres=5, memory="1Gi", labels={"any": "name"}, pipes=[{"name": "worm"}], notes={"any": {"depth": 1}})
    assert problems(good, STILL) == []


@pytest.mark.parametrize(
    ("manifest", "problem"),
    [
        (still(litre=5), "$.spec.litre: unknown field"),
        (still(pipes=[{"name": "worm"}, {"nam": "arm"}]), "$.spec.pipes[1].nam: unknown field"),
        (still(litres="5"), "$.spec.litres: '5' is not of type 'integer'"),
        (still(labels={"size": 3}), "$.spec.labels.size: 3 is not of type 'string'"),
        ({**still(), "status": {}}, "$.status: unknown field"),
        ({**still(), "metadata": {"name": "copper", "label": {}}}, "$.metadata.label: unknown field"),
        ({"apiVersion": "example.org/v1", "kind": "Still"}, "$: 'spec' is a required property"),
    ],
)
def test_a_problem_is_named_with_its_path(manifest: dict[str, Any], problem: str) -> None:
    assert problems(manifest, STILL) == [problem]


def test_schemas_are_those_of_the_served_versions(tmp_path: Path) -> None:
    versions = [
        {"name": "v1", "served": True, "schema": {"openAPIV3Schema": STILL}},
        {"name": "v1alpha1", "served": False, "schema": {"openAPIV3Schema": {}}},
    ]
    spec = {"group": "example.org", "names": {"kind": "Still"}, "versions": versions}
    definition = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": spec}
    (tmp_path / "still.yaml").write_text(yaml.safe_dump(definition))
    assert load_schemas(tmp_path) == {("example.org/v1", "Still"): STILL}


def test_a_folder_without_definitions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="holds no custom resource definitions"):
        load_schemas(tmp_path)
