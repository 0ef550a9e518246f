"""The review without a browser: the sample as a CSV or JSONL file, and its judgements read back."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stillhouse.errors import UserError
from stillhouse.review.judgement import VERDICTS, Judgement, Verdict, checked_name, judgement
from stillhouse.review.sample import Item
from stillhouse.review.state import ReviewState
from stillhouse.task import chat_messages

COLUMNS = ("id", "content", "class", "confidence", "prompt", "completion", "verdict", "correction")
"""Of an exported file; what people fill in are the last two, and the prompt may be left out."""

_NEEDED = ("id", "content", "verdict")

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How a cell begins that a spreadsheet might compute; with quotes before, so that taking one off again is exact.
Source: OWASP, CSV Injection."""

_MOST_TOLD = 20
"""Problems that are told of a file."""

_LARGEST_CELL = 2**31 - 1


def write_sample(state: ReviewState, path: Path) -> int:
    """Write the sample to a `.csv` or `.jsonl` file, in the order in which it is judged; how many records there are.

    Gold answers are left out: who sees them judges them, and not the completion.

    Raises:
        UserError: another kind of file, or one that cannot be written.
    """
    kind = _kind(path)
    rows = [_row(state, item) for item in state.sample.items]
    buffer = io.StringIO(newline="")
    if kind == "csv":
        writer = csv.DictWriter(buffer, COLUMNS)
        writer.writeheader()
        writer.writerows({name: guarded(value) for name, value in row.items()} for row in rows)
    else:
        buffer.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        # Spreadsheets take a CSV file for UTF-8 only with the mark at its start.
        path.write_text(buffer.getvalue(), encoding="utf-8-sig" if kind == "csv" else "utf-8", newline="")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    return len(rows)


def _row(state: ReviewState, item: Item) -> dict[str, str]:
    prompt = item.prompt(state.recipe.task)
    messages = chat_messages(prompt)
    text = prompt.text if prompt.text is not None else "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)
    return {
        "id": item.id,
        "content": item.content,
        "class": item.label,
        "confidence": "" if item.confidence is None else f"{item.confidence:.4g}",
        "prompt": text,
        "completion": item.completion,
        "verdict": "",
        "correction": "",
    }


def read_judgements(state: ReviewState, path: Path, reviewer: str) -> int:
    """Read a reviewer's judgements from a file that was exported; how many there are that say something new.

    Rows without a verdict are left for later.

    Raises:
        UserError: anything in the file is wrong; every problem is told with its line, and nothing is kept.
    """
    reviewer = checked_name(reviewer)
    found: list[Judgement] = []
    problems: list[str] = []
    lines: dict[str, int] = {}
    rows = 0
    for line, row in _rows(path):
        rows += 1
        try:
            each = _judgement(state, row, reviewer, lines)
        except UserError as error:
            problems.append(f"{path}:{line}: {error}")
            continue
        lines[row["id"]] = line
        if each is not None and not _said(state, each):
            found.append(each)
    if not rows:
        raise UserError(f"{path} holds no rows")
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        more = f"\n  and {len(problems) - _MOST_TOLD} more" if len(problems) > _MOST_TOLD else ""
        told = "".join(f"\n  {problem}" for problem in problems[:_MOST_TOLD])
        raise UserError(f"{path} has {count}, and nothing of it was kept:{told}{more}")
    if found:
        state.append(found)
    return len(found)


def _judgement(state: ReviewState, row: Mapping[str, str], reviewer: str, lines: Mapping[str, int]) -> Judgement | None:
    """What a row says; None where it has no verdict. Raises `UserError` without the place."""
    for name in _NEEDED:
        if name not in row:
            raise UserError(f"there is no {name!r}")
    item = state.sample.by_id.get(row["id"])
    if item is None:
        raise UserError(f"the record {row['id']!r} is not in the sample")
    if item.id in lines:
        raise UserError(f"the record {item.id!r} is in line {lines[item.id]} already")
    if row["content"] != item.content or not _alike(row.get("completion", item.completion), item.completion):
        raise UserError(f"the record {item.id!r} has another prompt or completion in the run: export again")
    verdict, correction = row["verdict"].strip().lower(), row.get("correction", "")
    if not verdict:
        if correction.strip():
            raise UserError("there is a correction without the verdict `correct`")
        return None
    if verdict not in VERDICTS:
        raise UserError(f"the verdict {row['verdict']!r} is none of {', '.join(VERDICTS)}")
    if verdict != "correct" and correction.strip():
        raise UserError(f"there is a correction, and the verdict is {verdict!r}, not `correct`")
    known: Verdict = verdict  # type: ignore[assignment]
    return judgement(state.recipe, item, reviewer, known, correction)


def _said(state: ReviewState, new: Judgement) -> bool:
    """Whether the reviewer says just that already: a file may be read twice."""
    old = state.said.get(new.id, {}).get(new.reviewer)
    return old is not None and (old.verdict, old.correction) == (new.verdict, new.correction)


def _alike(cell: str, completion: str) -> bool:
    """Whether a cell holds the completion, but for spaces and ends of lines, which spreadsheets change."""
    return cell.split() == completion.split()


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) of a file; cells as text."""
    kind = _kind(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")  # as it is: cells have line ends of their own
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: save it as `CSV UTF-8`") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    yield from _csv_rows(path, text) if kind == "csv" else _jsonl_rows(path, text)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    head = text.partition("\n")[0]
    # Where a comma is part of numbers, spreadsheets write semicolons.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)
    csv.field_size_limit(_LARGEST_CELL)
    names: list[str] = []
    line = 1
    try:
        for cells in reader:
            if not names:
                names = [cell.strip() for cell in cells]
                if missing := [name for name in _NEEDED if name not in names]:
                    raise UserError(f"{path}:1: there is no column {missing[0]!r}; there are {', '.join(names)}")
            elif len(cells) > len(names):
                raise UserError(f"{path}:{line}: there are {len(cells)} cells, and {len(names)} columns")
            elif any(cells):
                yield line, {name: unguarded(cell) for name, cell in zip(names, cells, strict=False)}
            line = reader.line_num + 1  # a cell may go over several lines
    except csv.Error as error:
        raise UserError(f"{path}:{line}: it is not CSV: {error}") from error


def _jsonl_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: it is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: it is no object")
        yield number, {str(name): _text(value) for name, value in row.items()}


def _text(value: Any) -> str:
    """A JSON value as text; a correction may be an object as it is."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def guarded(cell: str) -> str:
    """A cell with a quote before what a spreadsheet would take for a formula."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def unguarded(cell: str) -> str:
    """The cell that `guarded` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _kind(path: Path) -> str:
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("csv", "jsonl"):
        raise UserError(f"{path} is neither a .csv nor a .jsonl file")
    return kind
