"""What the user hears when a run cannot be served: a sentence and exit status 2, before anything is started."""

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from finished import finished_run
from recipes import policy, recipe

from services.app import build, main
from stillhouse.errors import UserError
from stillhouse.run import Run


@pytest.fixture
def student(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def run(tmp_path: Path, student: Path) -> Run:
    return finished_run(tmp_path / "run", student, threshold=0.5)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], free_port: int) -> Callable[..., str]:
    """`python -m services.app` in this process: it must end with status 2 before Ray starts. Returns what it says."""

    def unexpected(*_: object, **__: object) -> None:
        raise AssertionError("Ray must not start")

    def call(*words: str) -> str:
        port = [] if "--port" in words else ["--port", str(free_port)]
        monkeypatch.setattr("sys.argv", ["services.app", *words, *port])
        monkeypatch.setattr("ray.init", unexpected)
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        return said

    return call


def test_a_port_in_use(run: Run, serve: Callable[..., str], taken_port: int) -> None:
    said = serve("--run", run.uri, "--port", str(taken_port))
    assert re.search(rf"cannot listen on 127\.0\.0\.1:{taken_port} .*in use.*--port", said)


def test_a_folder_that_is_no_run(tmp_path: Path, serve: Callable[..., str]) -> None:
    assert "is not a run" in serve("--run", str(tmp_path / "nothing"))


def test_a_run_without_an_evaluation(run: Run, serve: Callable[..., str]) -> None:
    run.clear("evaluation")
    assert "stillhouse evaluate" in serve("--run", run.uri)


def test_a_policy_of_another_student(run: Run, serve: Callable[..., str]) -> None:
    run.storage.write("evaluation/policy.json", policy(0.5, student_hash="0" * 64).save())
    assert "calibrated for another student" in serve("--run", run.uri)
    with pytest.raises(UserError, match="another student"):
        build({"run": run.uri})


def test_a_policy_of_another_task(tmp_path: Path, student: Path, serve: Callable[..., str]) -> None:
    run = finished_run(tmp_path / "run", student, threshold=0.5)
    changed = recipe(task={**recipe().task.model_dump(), "prompt": "{text} Good or bad?"})
    run.begin(changed)
    assert "calibrated for another task" in serve("--run", run.uri)


def test_a_damaged_policy(run: Run, serve: Callable[..., str]) -> None:
    run.storage.write("evaluation/policy.json", b"{")
    assert "is not JSON" in serve("--run", run.uri)


def test_weights_that_changed_since_the_training(run: Run, serve: Callable[..., str]) -> None:
    run.storage.write("student/model.safetensors", b"WEIGHTS")
    assert "model.safetensors changed" in serve("--run", run.uri)


def test_a_teacher_that_does_not_exist(tmp_path: Path, student: Path, serve: Callable[..., str]) -> None:
    made = recipe(teacher={"model": str(tmp_path / "nowhere")})
    run = finished_run(tmp_path / "run", student, threshold=0.5, made_with=made)
    assert "nowhere does not exist" in serve("--run", run.uri)


def test_a_teacher_that_is_tuned_first_must_be(tmp_path: Path, student: Path, serve: Callable[..., str]) -> None:
    made = recipe(data={"path": "x.csv", "label": "y"}, teacher={"model": "some/teacher", "tune": {}})
    run = finished_run(tmp_path / "run", student, threshold=0.5, made_with=made)
    assert "has no finished teacher: run `stillhouse tune` first" in serve("--run", run.uri)
    run.commit("teacher", recipe=made, inputs={}, began=0.0)
    run.storage.write("teacher/model.safetensors", b"weights")
    assert f"the model folder {run.uri}/teacher holds no config.json" in serve("--run", run.uri)


def test_a_teacher_at_a_url(tmp_path: Path, student: Path, serve: Callable[..., str]) -> None:
    pretrained = {"engine": {"device": "cpu"}, "init": {"kind": "pretrained", "model": "student"}, "kd_weight": 0}
    remote = {"model": "gpt-4o", "url": "https://api.openai.com/v1"}
    made = recipe(teacher=remote, student=pretrained, capture={"mode": "text"})
    run = finished_run(tmp_path / "run", student, threshold=0.5, made_with=made)
    sentence = "the teacher 'gpt-4o' is served at https://api.openai.com/v1 already"
    assert sentence in serve("--run", run.uri)
    with pytest.raises(UserError, match="only a teacher with weights"):
        build({"run": run.uri})


@pytest.mark.parametrize("args", [{}, {"run": ""}, {"run": 3}, {"run": "runs/x", "port": 8000}])
def test_build_refuses_wrong_arguments(args: dict[str, object]) -> None:
    with pytest.raises(UserError, match="arguments are wrong"):
        build(args)
