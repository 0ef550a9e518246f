"""What the user hears when a teacher cannot be served alone, and how it is built."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recipes import recipe

from services.teacher import build, main
from stillhouse.errors import UserError
from stillhouse.recipe_file import dump_recipe

PRETRAINED = {"engine": {"device": "cpu"}, "init": {"kind": "pretrained", "model": "student"}, "kd_weight": 0}


@pytest.fixture
def path(tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe(**changes)))
        return tmp_path / "recipe.yaml"

    return write


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`python -m services.teacher` in this process: it must end with status 2 before Ray starts."""

    def unexpected(*_: object, **__: object) -> None:
        raise AssertionError("Ray must not start")

    def call(*words: str) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        monkeypatch.setattr(
            "sys.argv", ["services.teacher", *words, *([] if "--port" in words else ["--port", str(port)])]
        )
        monkeypatch.setattr("ray.init", unexpected)
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        return told.removeprefix("error: ")

    return call


def test_a_teacher_that_is_tuned_first_is_a_runs(
    path: Callable[..., Path], tmp_path: Path, said: Callable[..., str]
) -> None:
    tuned = path(data={"path": "x.csv", "label": "y"}, teacher={"model": "some/teacher", "tune": {}})
    assert "is tuned first (`teacher.tune`): name the run that holds it" in said("--recipe", str(tuned))
    words = ["--recipe", str(tuned), "--run", str(tmp_path / "run")]
    assert "run has no finished teacher: run `stillhouse tune` first" in said(*words)
    with pytest.raises(UserError, match="name the run"):
        build({"recipe": str(tuned)})


def test_a_recipe_that_is_not_there(tmp_path: Path, said: Callable[..., str]) -> None:
    assert "none.yaml does not exist" in said("--recipe", str(tmp_path / "none.yaml"))


def test_a_teacher_that_is_an_endpoint_already(path: Callable[..., Path], said: Callable[..., str]) -> None:
    remote = {"model": "gpt-4o", "url": "https://api.openai.com/v1"}
    there = path(teacher=remote, student=PRETRAINED, capture={"mode": "text"})
    assert "is served at https://api.openai.com/v1 already" in said("--recipe", str(there), "--port", "0")
    with pytest.raises(UserError, match="only a teacher with weights can be served"):
        build({"recipe": str(there)})


def test_weights_that_are_not_there(path: Callable[..., Path], tmp_path: Path, said: Callable[..., str]) -> None:
    there = path(teacher={"model": str(tmp_path / "nowhere")})
    assert "nowhere does not exist" in said("--recipe", str(there), "--port", "0")


def test_a_port_in_use(path: Callable[..., Path], said: Callable[..., str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in said("--recipe", str(path()), "--port", str(port))


@pytest.mark.parametrize("args", [{}, {"recipe": ""}, {"recipe": "x.yaml", "port": 8000}])
def test_build_refuses_wrong_arguments(args: dict[str, object]) -> None:
    with pytest.raises(UserError, match="arguments are wrong"):
        build(args)


def test_as_many_logprobs_as_the_recipe_captures_and_at_least_twenty(path: Callable[..., Path]) -> None:
    for top_k, most in ((5, 20), (64, 64)):
        openai = build({"recipe": str(path(capture={"top_k": top_k}))})
        bound = openai._bound_deployment.init_kwargs
        assert list(bound["llm_deployments"]) == list(bound["model_cards"]) == ["reviews-teacher"]
        engine = bound["llm_deployments"]["reviews-teacher"]._bound_deployment
        (config,) = engine.init_args or (engine.init_kwargs["llm_config"],)
        assert config.engine_kwargs["max_logprobs"] == most
        assert config.engine_kwargs["logprobs_mode"] == "processed_logprobs"
