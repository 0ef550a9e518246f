"""The best student so far: what a checkpoint leads to is never forgotten."""

from __future__ import annotations

from pathlib import Path

from ray_jobs.train.best import Best
from stillhouse.run import Run


def _student(folder: Path, content: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_text(content)
    return folder


def test_what_the_last_two_checkpoints_lead_to_stays(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    best = Best(run, "abc")

    def kept() -> list[str]:
        return [key.split("/")[3] for key in run.storage.list("training/abc/best")]

    best.put(10, _student(tmp_path / "student", "ten"))
    best.prune(10)
    best.put(20, _student(tmp_path / "student", "twenty"))
    best.prune(20)
    assert kept() == ["00000010", "00000020"], "the checkpoint at 20 may fail, and that at 10 needs the older one"
    best.prune(20)
    assert kept() == ["00000020"]
    best.get(20, tmp_path / "copy")
    assert (tmp_path / "copy" / "model.safetensors").read_text() == "twenty"


def test_before_the_first_validation_nothing_is_needed(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    best = Best(run, "abc")
    best.put(5, _student(tmp_path / "student", "of another start"))
    best.prune(None)
    assert run.storage.list("training/abc/best") == []


def test_a_student_of_before_a_kill_is_written_over(tmp_path: Path) -> None:
    run = Run.open(str(tmp_path / "run"))
    run.storage.write("training/abc/best/00000010/left.txt", b"half of it")
    best = Best(run, "abc")
    best.put(10, _student(tmp_path / "student", "ten"))
    best.get(10, tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["model.safetensors"]
