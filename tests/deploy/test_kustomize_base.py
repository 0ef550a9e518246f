"""`k8s/base`, as kubectl's kustomize renders it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from pods import Manifest, cluster_spec, gpus, kinds, one

from stillhouse.recipe_file import load_recipe

ROOT = Path(__file__).resolve().parents[2]


def entrypoint(base: list[Manifest]) -> list[str]:
    return shlex.split(one(base, "RayJob")["spec"]["entrypoint"])


def test_it_holds_what_a_run_and_its_endpoint_need(base: list[Manifest]) -> None:
    assert kinds(base) == [
        ("v1", "ConfigMap", "stillhouse-recipe"),
        ("v1", "Namespace", "stillhouse"),
        ("v1", "PersistentVolumeClaim", "stillhouse-models"),
        ("ray.io/v1", "RayJob", "stillhouse-pipeline"),
        ("ray.io/v1", "RayService", "stillhouse"),
        ("v1", "ServiceAccount", "stillhouse"),
    ]


def test_every_object_lies_in_the_namespace_and_says_what_it_is_part_of(base: list[Manifest]) -> None:
    for manifest in base:
        if manifest["kind"] != "Namespace":
            assert manifest["metadata"]["namespace"] == "stillhouse", manifest["kind"]
        assert manifest["metadata"]["labels"]["app.kubernetes.io/part-of"] == "stillhouse", manifest["kind"]


def test_the_component_label_parts_the_pipeline_from_the_endpoint(base: list[Manifest]) -> None:
    components = {m["kind"]: m["metadata"]["labels"].get("app.kubernetes.io/component") for m in base}
    assert {kind for kind, component in components.items() if component == "endpoint"} == {"RayService"}
    assert components["RayJob"] == "pipeline"


def test_the_image_is_set_in_one_place(base: list[Manifest]) -> None:
    kustomization = yaml.safe_load((ROOT / "k8s" / "base" / "kustomization.yaml").read_text())
    (image,) = kustomization["images"]
    expected = f"{image['newName']}:{image['newTag']}"
    rendered = yaml.safe_dump_all(base)
    assert rendered.count(f"image: {expected}") == rendered.count("image: ") == 7


def test_the_entrypoint_is_a_module_of_the_repository(base: list[Manifest]) -> None:
    python, dash_m, module, *_ = entrypoint(base)
    assert (python, dash_m) == ("python", "-m")
    path = ROOT.joinpath(*module.split("."))
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"no module {module}"


def test_the_entrypoint_takes_these_options(base: list[Manifest]) -> None:
    _, _, module, *options = entrypoint(base)
    shown = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert shown.returncode == 0, shown.stderr
    names = [option for option in options if option.startswith("--")]
    assert names == ["--recipe", "--run"]
    assert all(name in shown.stdout for name in names)


def test_the_recipe_is_where_the_entrypoint_looks_for_it(base: list[Manifest]) -> None:
    words = entrypoint(base)
    wanted = PurePosixPath(words[words.index("--recipe") + 1])
    head = cluster_spec(one(base, "RayJob"))["headGroupSpec"]["template"]["spec"]
    (mount,) = [m for m in head["containers"][0]["volumeMounts"] if PurePosixPath(m["mountPath"]) == wanted.parent]
    (volume,) = [v for v in head["volumes"] if v["name"] == mount["name"]]
    config_map = one(base, "ConfigMap")
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    assert wanted.name in config_map["data"]


@pytest.fixture(scope="module")
def recipe(base: list[Manifest], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The recipe of the ConfigMap, as the pipeline would read it."""
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(one(base, "ConfigMap")["data"]["recipe.yaml"], encoding="utf-8")
    return load_recipe(path)


@pytest.mark.parametrize("kind", ["RayJob", "RayService"])
def test_the_engines_of_the_recipe_fit_the_workers(base: list[Manifest], recipe: Any, kind: str) -> None:
    groups = {g["groupName"]: g for g in cluster_spec(one(base, kind))["workerGroupSpecs"]}
    each = {name: gpus(group["template"]["spec"]["containers"][0]) for name, group in groups.items()}
    # A tensor-parallel engine lies on one node; pipeline stages may lie on several.
    assert each["teacher"] == recipe.teacher.engine.tensor_parallel_size
    assert groups["teacher"]["replicas"] >= recipe.teacher.engine.pipeline_parallel_size * recipe.capture.engines.max
    assert each["student"] >= recipe.student.engine.tensor_parallel_size
    if kind == "RayJob":
        assert each["student"] * groups["student"]["replicas"] >= recipe.student.workers


def test_the_endpoint_serves_the_run_of_the_pipeline(base: list[Manifest]) -> None:
    words = entrypoint(base)
    config = yaml.safe_load(one(base, "RayService")["spec"]["serveConfigV2"])
    assert config["applications"][0]["args"]["run"] == words[words.index("--run") + 1]


def test_claims_and_accounts_that_pods_name_exist(base: list[Manifest]) -> None:
    rendered = yaml.safe_dump_all(base)
    claim, account = one(base, "PersistentVolumeClaim"), one(base, "ServiceAccount")
    # One submitter, and a head and two groups of workers for each of the two clusters.
    assert rendered.count(f"claimName: {claim['metadata']['name']}\n") == rendered.count("claimName: ") == 6
    named = f"serviceAccountName: {account['metadata']['name']}\n"
    assert rendered.count(named) == rendered.count("serviceAccountName: ") == 7


def test_the_job_gives_back_what_it_took(base: list[Manifest]) -> None:
    spec = one(base, "RayJob")["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert "deletionStrategy" not in spec, "KubeRay refuses it beside shutdownAfterJobFinishes"
    assert spec["activeDeadlineSeconds"] > spec["preRunningDeadlineSeconds"] > 0
    assert spec["backoffLimit"] >= 1, "a pipeline that resumes is worth a second try"
