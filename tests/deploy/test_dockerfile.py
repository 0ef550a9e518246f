"""The Dockerfile, without building it: its targets, and what the manifests expect of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pods import Manifest, pod_specs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def stages() -> dict[str, list[str]]:
    """The instructions of each build stage, continuation lines joined, in the file's order."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if stage := re.match(r"FROM \S+ AS (\S+)", line):
            found[stage[1]] = []
        elif found and line and not line.startswith("#"):
            found[list(found)[-1]].append(" ".join(line.split()))
    return found


def test_cuda_is_the_default_and_cpu_a_target(stages: dict[str, list[str]]) -> None:
    assert "cpu" in stages
    assert list(stages)[-1] == "cuda"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_target_is_installed_from_its_lock(stages: dict[str, list[str]], target: str) -> None:
    installs = [line for line in stages[f"builder-{target}"] if "uv pip install" in line]
    assert f"--constraints requirements/{target}.txt" in installs[0]
    assert f"--overrides requirements/overrides-{target}.txt" in installs[0]
    assert f"--extra {target}" in installs[0]
    assert installs[-1].endswith("uv pip install --no-deps .")
    assert f"COPY --from=builder-{target} /opt/stillhouse /opt/stillhouse" in stages[target]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_target_runs_as_the_user_of_the_manifests(
    stages: dict[str, list[str]], base: list[Manifest], target: str
) -> None:
    (context,) = {(s["securityContext"]["runAsUser"], s["securityContext"]["runAsGroup"]) for s in pod_specs(base)}
    assert stages[target][-1] == "USER {}:{}".format(*context)


def test_a_pod_mounts_its_home_where_the_image_has_it(stages: dict[str, list[str]], base: list[Manifest]) -> None:
    (home,) = re.findall(r"HOME=(\S+)", " ".join(stages["runtime"]))
    mounts = [
        m for s in pod_specs(base) for c in s["containers"] for m in c.get("volumeMounts", []) if m["name"] == "home"
    ]
    assert len(mounts) == 6
    assert {mount["mountPath"] for mount in mounts} == {home}


def test_what_is_copied_exists_and_is_not_ignored(stages: dict[str, list[str]]) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = [line.split()[1:-1] for lines in stages.values() for line in lines if re.match(r"COPY (?!--from)", line)]
    sources = {source for copy in copies for source in copy}
    assert sources == allowed
    missing = [source for source in sources if not (ROOT / source).exists()]
    assert missing == []
