"""The signal of the real engine against an independent forward pass in transformers, float32 on both sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from engine_process import TEACHER, EngineProcess, StartedEngine

from stillhouse.models import load_tokenizer, resolve
from stillhouse.recipe import Capture, Task
from stillhouse.signal.schema import Completion
from stillhouse.signal.sparse import SparseSignal

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engines")]

K = 64
REVIEWS = [
    "a gripping movie, played with performances that are all understated and touching.",
    "it's slow -- very, very slow.",
    "the story gives ample opportunity for large-scale action and suspense, which director shekhar kapur supplies",
    "interesting, but not compelling.",
    "an utterly compelling 'who wrote it' in which the reputation of the most famous author is at stake.",
]
CHOICES = Task(
    kind="choices", prompt="Review: {text}\nSentiment:", choices=(" positive", " negative", " not clear"), max_tokens=6
)
TEXT = Task.model_validate({"kind": "text", "prompt": "Review: {text}\nMore:", "max_tokens": 12})
STOPPED = Task.model_validate(
    {
        "kind": "text",
        "prompt": "{text}",
        "max_tokens": 24,
        "sampling": {"temperature": 0.7, "top_p": 0.9, "stop": [",", "."]},
    }
)
SCHEMA = {
    "type": "object",
    "properties": {"stars": {"type": "integer"}, "good": {"type": "boolean"}},
    "required": ["stars", "good"],
    "additionalProperties": False,
}
JSON = Task(kind="json", prompt="{text}\nAs JSON:", json_schema=SCHEMA, max_tokens=32)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(TEACHER)


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[list[int]]:
    return [tokenizer(f"Review: {text}\nSentiment:")["input_ids"] for text in REVIEWS]


@pytest.fixture(scope="module")
def reference() -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(resolve(TEACHER), dtype=torch.float32)

    def logits(prompt: Sequence[int], completion: Sequence[int]) -> torch.Tensor:
        """[tokens of the completion, vocab], float32."""
        with torch.no_grad():
            found = model(torch.tensor([[*prompt, *completion]])).logits[0]
        return found[len(prompt) - 1 : -1].float()

    return logits


@pytest.fixture(scope="module")
def text_engine(engines: EngineProcess) -> Iterator[StartedEngine]:
    with engines.start(TEXT, Capture(top_k=K)) as engine:
        yield engine


def assert_same_signal(found: SparseSignal, expected: SparseSignal, tolerance: float) -> None:
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.offsets, expected.offsets)
    assert np.abs(found.logprobs - expected.logprobs).max() < tolerance


def assert_is_reference(completion: Completion, logprobs: torch.Tensor) -> None:
    """The signal is the K most probable tokens at each position, the last one included."""
    assert completion.signal is not None
    assert completion.token_logprobs is not None
    tokens = len(completion.token_ids)
    assert len(completion.signal) == tokens == len(logprobs)
    top = torch.topk(logprobs, K)
    for t in range(tokens):
        ids, values = completion.signal.at(t)
        assert ids.tolist() == top.indices[t].tolist()
        assert np.abs(values - top.values[t].numpy()).max() < 1e-4
        assert abs(completion.token_logprobs[t] - logprobs[t, completion.token_ids[t]].item()) < 1e-4
    assert np.abs(completion.signal.mass - top.values.exp().sum(-1).numpy()).max() < 1e-4


def test_generation_gives_the_most_probable_tokens(
    text_engine: StartedEngine, prompts: list[list[int]], reference: Any, tokenizer: Any
) -> None:
    for prompt, (completion,) in zip(prompts, text_engine.complete(prompts), strict=True):
        assert completion.prompt_token_ids == prompt
        assert_is_reference(completion, reference(prompt, completion.token_ids).log_softmax(-1))
        assert completion.text == tokenizer.decode(completion.token_ids, skip_special_tokens=True)


def test_scoring_gives_the_most_probable_tokens(
    text_engine: StartedEngine, prompts: list[list[int]], reference: Any, tokenizer: Any
) -> None:
    given = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in (" good", " I'd say it's a bad one.")]
    for prompt, ids, completion in zip(prompts, given, text_engine.score(prompts[:2], given), strict=False):
        assert completion is not None
        assert completion.token_ids == ids
        assert completion.finish_reason == "stop"
        assert_is_reference(completion, reference(prompt, ids).log_softmax(-1))


def test_scoring_gives_what_generation_gave(text_engine: StartedEngine, prompts: list[list[int]]) -> None:
    written = [completions[0] for completions in text_engine.complete(prompts)]
    for before, after in zip(written, text_engine.score(prompts, [one.token_ids for one in written]), strict=True):
        assert after is not None
        assert before.signal is not None
        assert after.signal is not None
        assert_same_signal(after.signal, before.signal, 1e-4)
        assert np.abs(np.subtract(after.token_logprobs, before.token_logprobs)).max() < 1e-4


def test_a_seed_gives_the_same_completions_in_whatever_batch(
    text_engine: StartedEngine, prompts: list[list[int]]
) -> None:
    seeds = [7, 8, 9, 10, 11]
    together = text_engine.complete(prompts, n=2, seeds=seeds)
    alone = text_engine.complete(prompts[3:4], n=2, seeds=seeds[3:4])
    assert [one.token_ids for one in together[3]] == [one.token_ids for one in alone[0]]
    assert len({tuple(one.token_ids) for completions in together for one in completions}) == 10, "all drawn apart"
    other = text_engine.complete(prompts[3:4], n=2, seeds=[12])
    assert [one.token_ids for one in together[3]] != [one.token_ids for one in other[0]]


def test_a_stop_text_ends_a_completion(engines: EngineProcess, prompts: list[list[int]], tokenizer: Any) -> None:
    with engines.start(STOPPED, Capture(mode="text"), scores=False) as engine:
        completions = [one for each in engine.complete(prompts, n=4) for one in each]
    stopped = [one for one in completions if one.finish_reason == "stop"]
    assert stopped
    for one in stopped:
        written = tokenizer.decode(one.token_ids, skip_special_tokens=True)
        assert not {",", "."} & set(one.text)
        assert written == one.text or written[len(one.text)] in ",."
    assert all(one.signal is None for one in completions)
    assert all(len(one.token_logprobs or []) == len(one.token_ids) for one in completions)


def test_choices_are_normalised_among_what_may_come_next(
    engines: EngineProcess, prompts: list[list[int]], reference: Any, tokenizer: Any
) -> None:
    with engines.start(CHOICES, Capture(top_k=20)) as engine:
        written = [completions[0] for completions in engine.complete(prompts)]
        again = engine.score(prompts, [one.token_ids for one in written])
        spellings = [
            [*tokenizer(choice, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            for choice in CHOICES.choices
        ]
        scored = engine.score([prompts[0]] * 3, spellings)
        outside = engine.score(prompts[:1], [[*tokenizer(" awful")["input_ids"], tokenizer.eos_token_id]])
    assert {one.text for one in written} <= set(CHOICES.choices)
    for before, after in zip(written, again, strict=True):
        assert after is not None
        assert before.signal is not None
        assert after.signal is not None
        assert_same_signal(after.signal, before.signal, 1e-4)
        assert (after.text, after.finish_reason) == (before.text, before.finish_reason)
    for ids, completion in zip(spellings, scored, strict=True):
        assert completion is not None
        assert completion.signal is not None
        assert completion.token_ids == ids
        logits = reference(prompts[0], ids)
        for t in range(len(ids)):
            # A trie of its own: what the spellings that began the same way go on with.
            nexts = sorted({spelling[t] for spelling in spellings if spelling[:t] == ids[:t]})
            expected = logits[t, nexts].log_softmax(-1)
            found, values = completion.signal.at(t)
            assert sorted(found.tolist()) == nexts
            order = [found.tolist().index(token) for token in nexts]
            assert np.abs(values[order] - expected.numpy()).max() < 1e-4
    assert outside == [None]


def test_json_is_scored_as_it_was_written(engines: EngineProcess, prompts: list[list[int]], tokenizer: Any) -> None:
    with engines.start(JSON, Capture(top_k=K)) as engine:
        written = [completions[0] for completions in engine.complete(prompts[:2])]
        again = engine.score(prompts[:2], [one.token_ids for one in written])
        given = [
            [*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in ('{"stars": 3, "good": true}', "3")
        ]
        scored = engine.score(prompts[:2], given)
    for before, after in zip(written, again, strict=True):
        assert after is not None
        assert before.signal is not None
        assert after.signal is not None
        assert_same_signal(after.signal, before.signal, 1e-4)
    assert scored[0] is not None
    assert scored[0].text == '{"stars": 3, "good": true}'
    assert scored[1] is None


def test_draws_are_the_whole_distribution_within_their_own_error(
    engines: EngineProcess, prompts: list[list[int]], reference: Any, tokenizer: Any
) -> None:
    from scipy.stats import chi2

    draws = 10_000
    capture = Capture(mode="sampled").model_copy(update={"draws": draws})
    with engines.start(TEXT, capture) as engine:
        written = engine.complete(prompts[:2], seeds=[1, 2])
        other = engine.complete(prompts[:1], seeds=[3])[0][0]
        ((alone,),) = engine.complete(prompts[1:2], seeds=[2])
        again = engine.score(prompts[:1], [written[0][0].token_ids], seeds=[1])[0]
    completion = written[0][0]
    assert completion.signal is not None
    logprobs = reference(prompts[0], completion.token_ids).log_softmax(-1).double()
    assert len(completion.signal) == len(completion.token_ids) == TEXT.max_tokens
    z = []
    for t in range(len(completion.signal)):
        true = logprobs[t].exp().numpy()
        ids, values = completion.signal.at(t)
        counts = np.zeros(len(true))
        counts[ids] = np.exp(values.astype(np.float64)) * draws
        assert counts.sum() == pytest.approx(draws)
        head = np.flatnonzero(true * draws >= 5)
        z.append((counts[head] - draws * true[head]) / np.sqrt(draws * true[head] * (1 - true[head])))
        # The tail is one more cell; its tokens together are drawn as often as their probability says.
        observed = np.append(counts[head], draws - counts[head].sum())
        expected = np.append(draws * true[head], draws * (1 - true[head].sum()))
        kept = expected >= 5
        statistic = ((observed - expected)[kept] ** 2 / expected[kept]).sum()
        assert chi2.sf(statistic, kept.sum() - 1) > 1e-5
    scores = np.concatenate(z)
    assert np.abs(scores).max() < 5
    assert np.sqrt((scores**2).mean()) == pytest.approx(1, abs=0.15), (
        "no further off than its standard error, nor nearer"
    )
    assert alone.signal is not None
    assert written[1][0].signal is not None
    assert np.array_equal(alone.token_ids, written[1][0].token_ids)
    shared = np.intersect1d(alone.signal.at(0)[0], written[1][0].signal.at(0)[0])
    assert len(shared) > 0.99 * len(alone.signal.at(0)[0]), "drawn alike in another batch"
    assert other.signal is not None
    assert not np.array_equal(other.signal.at(0)[0], completion.signal.at(0)[0]), "another seed, other draws"
    assert again is not None
    assert again.signal is not None
    assert np.allclose(again.token_logprobs or [], completion.token_logprobs or [], atol=1e-4)
    common = set(again.signal.at(3)[0].tolist()) & set(completion.signal.at(3)[0].tolist())
    assert len(common) > 0.99 * len(again.signal.at(3)[0]), "scoring draws as generation did"
