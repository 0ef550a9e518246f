"""The commands as a user meets them: real processes, their output and their exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from stillhouse import lineage
from stillhouse.cli import app, main
from stillhouse.recipe import Recipe
from stillhouse.recipe_file import dump_recipe, load_recipe
from stillhouse.run import STEPS, Run

COMMANDS = (
    "check",
    "tune",
    "capture",
    "curate",
    "train",
    "evaluate",
    "run",
    "serve",
    "teacher",
    "status",
    "cost",
    "export",
    "review",
    "submit",
)

MakeRecipe = Callable[..., Recipe]
MakeTokenizer = Callable[..., Any]


def stillhouse(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The console script, in `folder`."""
    script = Path(sys.executable).with_name("stillhouse")
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run([script, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture
def recipe(tmp_path: Path, make_recipe: MakeRecipe, make_tokenizer: MakeTokenizer) -> Path:
    """A recipe whose data and teacher's tokenizer are there."""
    make_tokenizer("good film Review Sentiment : positive negative").save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "config.json").write_text('{"model_type": "llama"}')
    rows = [("good", "positive"), ("good film", ""), ("good good film film", "negative")]
    lines = [json.dumps({"text": f"{text} {i}", "label": label}) + "\n" for i in range(20) for text, label in rows]
    (tmp_path / "data.jsonl").write_text("".join(lines))
    made = make_recipe({"data.path": "data.jsonl", "teacher.model": "./teacher", "capture.top_k": 5})
    (tmp_path / "recipe.yaml").write_text(dump_recipe(made))
    return tmp_path / "recipe.yaml"


def edit(recipe: Path, **sections: dict[str, Any]) -> None:
    content = yaml.safe_load(recipe.read_text())
    for name, changes in sections.items():
        content[name] |= changes
    recipe.write_text(yaml.safe_dump(content))


def told(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence of a user's mistake."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def test_help_names_every_command_and_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.argv = ['stillhouse', '--help']\n"
        "from stillhouse.cli import main\n"
        "try:\n    main()\n"
        "finally:\n"
        "    heavy = {'ray', 'vllm', 'torch', 'transformers', 'deepspeed', 'pyarrow', 'boto3', 'scipy', 'pydantic'}\n"
        "    print('loaded', sorted(heavy & set(sys.modules)))\n"
    )
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded []"
    for command in COMMANDS:
        assert f" {command} " in done.stdout


def test_status_and_a_users_mistake_load_no_engine(recipe: Path) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['stillhouse', 'status', {str(recipe)!r}]\n"
        "from stillhouse.cli import main\n"
        "main.__globals__['app'](standalone_mode=False)\n"
        "print('loaded', sorted({'ray', 'vllm', 'torch', 'transformers', 'deepspeed'} & set(sys.modules)))\n"
    )
    assert python(code, recipe.parent).stdout.splitlines()[-1] == "loaded []"


def test_check_without_a_teacher(recipe: Path) -> None:
    done = CliRunner().invoke(app, ["check", str(recipe), "--no-teacher"])
    assert done.exit_code == 0, done.output
    assert "60, 40 with a gold answer" in done.stdout
    assert "7.3 tokens on average, 9 the longest" in done.stdout
    assert "warning few-examples: 60 different records are few" in done.stdout


def test_check_for_a_program(recipe: Path) -> None:
    done = stillhouse("check", "recipe.yaml", "--no-teacher", "--json", folder=recipe.parent)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["recipe"], found["records"], found["teachers"]) == ("tiny", 60, [])
    assert "few-examples" in {warning["name"] for warning in found["warnings"]}


def test_check_asks_the_teacher_in_a_job_of_its_own(recipe: Path) -> None:
    """What cannot work is refused before Ray or an engine is started."""
    edit(recipe, capture={"top_k": 10})
    done = stillhouse("check", "recipe.yaml", folder=recipe.parent)
    assert "capture.top_k: 10 is more than the 9 tokens of the vocabulary" in told(done)
    assert done.stdout == ""


def test_status_of_a_recipe_and_of_its_run(recipe: Path) -> None:
    def rows(target: str, *words: str) -> list[list[str]]:
        done = stillhouse("status", target, *words, folder=recipe.parent)
        assert done.returncode == 0, done.stderr
        return [line.strip().split(maxsplit=2) for line in done.stdout.splitlines()[2:]]

    assert [row[:2] for row in rows("recipe.yaml")] == [[step, "missing"] for step in STEPS]

    loaded = load_recipe(recipe)
    run = Run.open(str(recipe.parent / "runs" / "tiny"))
    run.begin(loaded)
    for step in STEPS[:3]:
        run.storage.write(f"{step}/content", b"x" * 100_000)
        run.commit(step, recipe=loaded, inputs=lineage.inputs(step, loaded, run), began=time.monotonic())
    run.storage.write("evaluation/half", b"x")
    for target, *words in (["recipe.yaml"], ["recipe.yaml", "--run", "runs/tiny"], ["runs/tiny"]):
        found = rows(target, *words)
        assert [row[:2] for row in found] == [*([step, "done"] for step in STEPS[:3]), ["evaluation", "partial"]]
        assert found[0][2] == "1 files, 0.1 MB, made in 0 s"

    edit(recipe, student={"epochs": 1})
    assert [row[:2] for row in rows("recipe.yaml")][2] == ["student", "stale"]
    assert "changed since: student" in rows("recipe.yaml")[2][2]
    # The run itself is still what its own recipe says.
    assert [row[:2] for row in rows("runs/tiny")][2] == ["student", "done"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["check", "none.yaml"], "the recipe none.yaml does not exist"),
        (["tune", "recipe.yaml"], "the recipe has no `teacher.tune`, so its teacher is asked as it is"),
        (["run", "none.yaml"], "the recipe none.yaml does not exist"),
        (["teacher", "none.yaml"], "the recipe none.yaml does not exist"),
        (["status", "runs/none"], "runs/none is not a run: it holds no recipe.yaml"),
        (["serve", "runs/none"], "runs/none has no finished evaluation: run `stillhouse run` first"),
        (["status", "gs://bucket/run"], "gs://bucket/run is neither a local path nor an s3:// address"),
        (["cost", "runs/none"], "runs/none is not a run: it holds no recipe.yaml"),
        (["submit", "recipe.yaml", "--run", "runs/tiny"], "--run runs/tiny is relative, which means nothing on"),
    ],
)
def test_a_mistake_in_the_words(recipe: Path, words: list[str], sentence: str) -> None:
    assert sentence in told(stillhouse(*words, folder=recipe.parent))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (None, "data.jsonl does not exist"),
        ("", "data.jsonl holds no rows"),
        ('{"text": "good", "label": "positive"}\n{"text": \n', "data.jsonl, line 2 is not JSON: Expecting value"),
        ('{"text": "good", "label": "so so"}\n', "line 1: the label 'so so' is none of the choices"),
        ('{"review": "good", "label": "positive"}\n', "line 1 has no column 'text'; it has review, label"),
    ],
)
def test_a_mistake_in_the_data(
    recipe: Path,
    data: str | None,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = recipe.parent / "data.jsonl"
    path.unlink()
    if data is not None:
        path.write_text(data)
    # In this process, which has the libraries loaded that each of its own would load for seconds.
    monkeypatch.chdir(recipe.parent)
    monkeypatch.setattr(sys, "argv", ["stillhouse", "check", "recipe.yaml", "--no-teacher"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert sentence in told(subprocess.CompletedProcess([], ended.value.code, *capsys.readouterr()))


def test_mistakes_in_the_recipe_are_told_together(recipe: Path) -> None:
    edit(recipe, student={"epoch": 3}, prices={"currency": ""})
    done = stillhouse("status", "recipe.yaml", folder=recipe.parent)
    assert done.returncode == 2
    head, *lines = done.stderr.splitlines()
    assert head == "error: the recipe recipe.yaml has 2 problems:"
    assert lines[0] == "  student.epoch: unknown key; did you mean `epochs`?"
    assert lines[1].startswith("  prices.currency: ")


def test_an_unknown_model(recipe: Path) -> None:
    edit(recipe, teacher={"model": "./none"})
    done = stillhouse("check", "recipe.yaml", "--no-teacher", folder=recipe.parent)
    assert "the model folder ./none does not exist" in told(done)


def test_a_run_of_another_recipe_is_left_alone(recipe: Path, make_recipe: MakeRecipe) -> None:
    run = Run.open(str(recipe.parent / "runs" / "other"))
    run.begin(make_recipe({"name": "other"}))
    before = run.storage.read("recipe.yaml")
    done = stillhouse("capture", "recipe.yaml", "--run", "runs/other", folder=recipe.parent)
    assert "was made by the recipe 'other', not by 'tiny': choose another folder with --run" in told(done)
    assert run.storage.list() == ["recipe.yaml"]
    assert run.storage.read("recipe.yaml") == before


def test_no_room_for_the_run(recipe: Path) -> None:
    (recipe.parent / "taken").write_text("a file, not a folder")
    done = stillhouse("curate", "recipe.yaml", "--run", "taken", folder=recipe.parent)
    assert "taken/recipe.yaml cannot be used: " in told(done)


def test_no_cluster_at_the_address(recipe: Path) -> None:
    words = ["submit", "recipe.yaml", "--run", "s3://bucket/run", "--address", "http://127.0.0.1:9"]
    assert "no Ray cluster answers at http://127.0.0.1:9" in told(stillhouse(*words, folder=recipe.parent))


def test_a_step_ends_with_its_process_and_takes_it_along(tmp_path: Path) -> None:
    (tmp_path / "step.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(7))\n"
        "print(sys.argv[1:], flush=True)\n"
        "time.sleep(0 if 'end' in sys.argv else 100)\n"
        "sys.exit(5)\n"
    )
    code = "from stillhouse.cli.process import start; start('step', {})"
    assert python(code.format(["end"]), tmp_path).returncode == 5

    waiting = [sys.executable, "-c", code.format(["stay"])]
    with subprocess.Popen(waiting, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "['stay']\n"
        started.send_signal(signal.SIGTERM)
        assert started.wait(60) == 7
