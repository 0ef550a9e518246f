"""What the linters of the deployment's files say."""

from __future__ import annotations

from pathlib import Path

from real_tools import call, installed_command

ROOT = Path(__file__).resolve().parents[2]
YAMLLINT_RULES = Path(__file__).with_name("yamllint.yaml")


def test_hadolint_finds_nothing_in_the_dockerfile(tmp_path: Path) -> None:
    linted = call(installed_command("hadolint"), "--failure-threshold", "style", ROOT / "Dockerfile", home=tmp_path)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_yamllint_finds_nothing_in_plain_yaml(tmp_path: Path) -> None:
    # Templates are no YAML before they are rendered.
    paths = [ROOT / "k8s", *(ROOT / "helm" / "stillhouse").glob("*.yaml"), YAMLLINT_RULES]
    assert len(paths) == 4
    linted = call(installed_command("yamllint"), "--strict", "-c", YAMLLINT_RULES, *paths, home=tmp_path)
    assert linted.returncode == 0, linted.stdout
