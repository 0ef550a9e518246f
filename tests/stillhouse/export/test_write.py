"""What other trainers get: their own readers read it, nothing breaks their rules, and nothing is half written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets_made import commit_dataset, row, sentiment
from typer.testing import CliRunner

from stillhouse.cli import app
from stillhouse.errors import UserError
from stillhouse.export import openai_chat
from stillhouse.export.write import FORMATS, Exported, export
from stillhouse.recipe import Recipe
from stillhouse.run import Run

MakeRecipe = Callable[..., Recipe]

CHAT = {
    "task.prompt": None,
    "task.messages": [{"role": "system", "content": "You judge films."}, {"role": "user", "content": "{text}"}],
}
TEXTS = [f"a {'good' if i % 3 else 'dull'} film, number {i}: größte Oper 良い" for i in range(30)]


class Exporting:
    """A run whose dataset is exported."""

    def __init__(self, make_recipe: MakeRecipe, tmp_path: Path) -> None:
        self._make, self._tmp_path = make_recipe, tmp_path
        self.run = Run.open(str(tmp_path / "run"))

    def __call__(
        self, format: Any, rows: list[dict[str, Any]], *, on: Any = "teacher", split: str = "train", **changes: Any
    ) -> Exported:
        recipe = self._make({name.replace("__", "."): value for name, value in changes.items()})
        commit_dataset(recipe, self.run, {split: rows})
        (written,) = export(recipe, self.run, format, self._tmp_path / "out", splits=[split], on=on)
        return written


@pytest.fixture
def exporting(make_recipe: MakeRecipe, tmp_path: Path) -> Exporting:
    return Exporting(make_recipe, tmp_path)


def lines(written: Exported) -> list[Any]:
    return [json.loads(line) for line in written.path.read_text(encoding="utf-8").splitlines()]


def test_a_plain_prompt_for_openai_is_one_message_and_its_answer(exporting: Exporting) -> None:
    written = exporting("openai", sentiment(TEXTS))
    assert (written.examples, written.size, written.left_out) == (30, written.path.stat().st_size, Counter())
    first = lines(written)[1]
    assert first == {
        "messages": [
            {"role": "user", "content": f"Review: {TEXTS[1]}\nSentiment:"},
            {"role": "assistant", "content": "positive"},
        ]
    }


def test_chats_go_to_openai_as_they_are(exporting: Exporting) -> None:
    made = {name.replace(".", "__"): value for name, value in CHAT.items()}
    first = lines(exporting("openai", sentiment(TEXTS), **made))[0]
    assert [message["role"] for message in first["messages"]] == ["system", "user", "assistant"]
    assert first["messages"][1]["content"] == TEXTS[0]


@pytest.mark.parametrize("chat", [False, True])
def test_trl_trains_on_the_completion_alone_and_ends_it(
    exporting: Exporting, chat: bool, tmp_path: Path, make_tokenizer: Callable[..., Any]
) -> None:
    """TRL's own preparation of the dataset, against the ids that prompt and completion have by themselves."""
    from datasets import load_dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer
    from trl.data_utils import is_conversational

    made = {name.replace(".", "__"): value for name, value in CHAT.items()} if chat else {}
    texts = [f"good film {'a ' * i}" for i in range(12)]
    written = exporting("trl", sentiment(texts), **made)
    dataset = load_dataset("json", data_files=str(written.path), split="train", cache_dir=str(tmp_path / "cache"))
    assert is_conversational(dataset[0]) is chat

    template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <eos> {% endfor %}"
    template += "{% if add_generation_prompt %}assistant {% endif %}"
    tokenizer = make_tokenizer(
        "good film a Review : Sentiment positive negative system user assistant You judge films .", template=template
    )
    config = LlamaConfig(vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    trainer = SFTTrainer(
        model=LlamaForCausalLM(config),
        args=SFTConfig(output_dir=str(tmp_path / "trl"), use_cpu=True, report_to=[], bf16=False, eos_token="<eos>"),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    batch = trainer.data_collator([trainer.train_dataset[5]])
    learned = [int(label) for label in batch["labels"][0] if label != -100]
    assert tokenizer.decode(learned).split()[:2] == ["positive", "<eos>"]
    assert "positive" not in tokenizer.decode(batch["input_ids"][0][: -len(learned)])


def test_axolotl_puts_nothing_around_a_plain_prompt(
    exporting: Exporting, tmp_path: Path, make_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = make_tokenizer("good film")
    tokenizer.save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "config.json").write_text('{"model_type": "llama"}')
    first = lines(exporting("axolotl", sentiment(TEXTS), teacher__model=str(tmp_path / "teacher")))[1]
    assert first == {
        "segments": [
            {"label": False, "text": f"Review: {TEXTS[1]}\nSentiment:"},
            {"label": True, "text": " positive<eos>"},
        ]
    }
    chat = {name.replace(".", "__"): value for name, value in CHAT.items()}
    assert set(lines(exporting("axolotl", sentiment(TEXTS), **chat))[0]) == {"messages"}


def test_sharegpt_knows_humans_and_gpt(exporting: Exporting) -> None:
    from trl.data_utils import is_conversational_from_value, maybe_convert_to_chatml

    chat = {name.replace(".", "__"): value for name, value in CHAT.items()}
    first = lines(exporting("sharegpt", sentiment(TEXTS), **chat))[0]
    assert [said["from"] for said in first["conversations"]] == ["system", "human", "gpt"]
    assert is_conversational_from_value(first)
    assert maybe_convert_to_chatml(first)["messages"][-1]["content"] == "negative"


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "axolotl"])
def test_the_same_dataset_gives_the_same_bytes(exporting: Exporting, format: str) -> None:
    first = exporting(format, sentiment(TEXTS))
    content = first.path.read_bytes()
    second = exporting(format, sentiment(TEXTS))
    assert (second.sha256, second.path.read_bytes()) == (first.sha256, content)


def test_truncated_and_empty_completions_and_missing_gold_are_left_out(exporting: Exporting) -> None:
    rows = [*sentiment(TEXTS), row(90, "long", " positive", finish_reason="length"), row(91, "silent", " ")]
    rows[0] = row(0, "good", " negative", gold=None)
    assert exporting("openai", rows).left_out == {"truncated": 1, "empty": 1}
    written = exporting("trl", rows, on="gold", data__label="label")
    assert written.left_out == {"without gold": 3}
    assert {line["completion"] for line in lines(written)} == {" positive", " negative"}


def test_openais_rules_are_told_line_by_line_and_nothing_is_written(exporting: Exporting, tmp_path: Path) -> None:
    rows = sentiment(TEXTS[:9])
    rows[4] = row(4, "very " * 40, " positive", tokens=90)
    rows[7] = row(7, "short", " positive", tokens=90)  # too long for the run's tokenizer, and so short that it fits any
    with pytest.raises(UserError) as refused:
        exporting("openai", rows, student__openai={"model": "gpt", "max_example_tokens": 80})
    assert str(refused.value).splitlines() == [
        "train.jsonl would break OpenAI's rules, with 2 problems:",
        "  it has 9 examples, and at least 10 are needed",
        "  line 5 (record r4): it has about 92 tokens, and an example may have 80",
    ]
    assert list((tmp_path / "out").iterdir()) == []


def test_a_validation_file_may_be_small(exporting: Exporting) -> None:
    assert exporting("openai", sentiment(TEXTS[:2]), split="validation").examples == 2


def test_a_task_whose_template_ends_with_the_assistant_still_ends_with_the_answer(exporting: Exporting) -> None:
    messages = [{"role": "assistant", "content": "{text}"}]
    with pytest.raises(UserError, match="with 30 problems") as refused:
        exporting("openai", sentiment(TEXTS), task__prompt=None, task__messages=messages)
    assert str(refused.value).splitlines()[1] == "  line 1 (record r0): it has no message of the role user"
    assert str(refused.value).splitlines()[-1] == "  and 10 more"


def test_nothing_to_export(exporting: Exporting) -> None:
    with pytest.raises(UserError, match=r"the split train has nothing to export \(1 truncated\)"):
        exporting("trl", [row(0, "a", " positive", finish_reason="length")])
    with pytest.raises(UserError, match=r"dataset/spam\.parquet does not exist"):
        export(exporting.run.recipe(), exporting.run, "trl", Path("x"), splits=["spam"], on="teacher")
    with pytest.raises(UserError, match=r"no `data\.label`"):
        exporting("trl", sentiment(TEXTS), on="gold", data__label=None)


def test_a_damaged_split_leaves_what_was_there(exporting: Exporting) -> None:
    written = exporting("trl", sentiment(TEXTS))
    before = written.path.read_bytes()
    key = "dataset/train.parquet"
    content = bytearray(exporting.run.storage.read(key))
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    exporting.run.storage.write(key, bytes(content))
    recipe = exporting.run.recipe()
    with pytest.raises(UserError, match="is damaged"):
        export(recipe, exporting.run, "trl", written.path.parent, splits=["train"], on="teacher")
    assert [path.name for path in written.path.parent.iterdir()] == ["train.jsonl"]
    assert written.path.read_bytes() == before


def test_the_command(exporting: Exporting, tmp_path: Path) -> None:
    exporting("trl", sentiment(TEXTS))
    words = ["export", exporting.run.uri, "--format", "openai", "--out", str(tmp_path / "jsonl"), "--split", "train"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "train.jsonl: 30 examples" in done.output
    assert len((tmp_path / "jsonl" / "train.jsonl").read_text(encoding="utf-8").splitlines()) == 30


def test_few_rows_are_in_memory_at_once(exporting: Exporting, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet

    from stillhouse.export import examples

    monkeypatch.setattr(examples, "_ROWS", 4)
    recipe = exporting("trl", sentiment(TEXTS)) and exporting.run.recipe()
    read = 0
    original = pyarrow.parquet.ParquetFile.iter_batches

    def counting(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal read
        for batch in original(self, *args, **options):
            read += batch.num_rows
            yield batch

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", counting)
    assert next(iter(examples.Examples(recipe, exporting.run, "train", "teacher"))).id == "r0"
    assert read == 4


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], "it has no list of `messages`"),
        ({"messages": []}, "it has no list of `messages`"),
        ({"messages": [1]}, "message 1 is not an object"),
        ({"messages": [{"role": "user", "content": "a"}]}, "its last message is not the assistant's"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "the key `prompt` is unknown"),
        ({"messages": [{"role": "human", "content": "a"}]}, "message 1 is of the role 'human'"),
        ({"messages": [{"role": "user", "content": " "}]}, "message 1 has no text in `content`"),
        ({"messages": [{"role": "user", "content": None}]}, "message 1 has no text in `content`"),
        ({"messages": [{"role": "user", "content": "a", "text": "b"}]}, "message 1 has the unknown key `text`"),
        ({"messages": [{"role": "user", "content": "a", "weight": 1}]}, "message 1 has a `weight`, which only"),
        ({"messages": [{"role": "assistant", "content": "a", "weight": 0.5}]}, "message 1 has the `weight` 0.5"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "it has no message of the role user"),
    ],
)
def test_openais_rules(content: Any, problem: str) -> None:
    found = list(openai_chat.line_problems(content, tokens=None, most_tokens=10))
    assert any(told.startswith(problem) for told in found), found


def test_a_good_line_and_its_weight() -> None:
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}
    assert list(openai_chat.line_problems(good, tokens=10**6, most_tokens=100)) == []


def test_the_size_of_a_file() -> None:
    (told,) = openai_chat.file_problems(split="train", examples=10, size=600_000_000)
    assert told == "it has 600 MB, and a file may have 512 MB"
