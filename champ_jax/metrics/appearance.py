"""Whether style and person are kept: Gram matrices, cosines of embeddings, and how often there is a face at all."""

from typing import NamedTuple

import numpy as np


def gram_matrix(features: np.ndarray) -> np.ndarray:
    """F F^T / (C H W) of a network's features [H,W,C]: f64 [C,C], which channels go together anywhere (Gatys et al. 2016)."""
    flat = np.asarray(features, np.float64).reshape(-1, features.shape[-1])
    return flat.T @ flat / flat.size


def gram_distance(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    """Squared Frobenius distance of Gram matrices, mean over the layers, each a pair of features [H,W,C]; sizes may differ."""
    return float(np.mean([np.sum((gram_matrix(a) - gram_matrix(b)) ** 2) for a, b in zip(first, second, strict=True)]))


def cosines(embeddings: np.ndarray, reference: np.ndarray, centre: np.ndarray | None = None) -> np.ndarray:
    """f64 [N]: cosine of each of embeddings [N,D] to the reference [D], all less `centre` [D] where it is given.

    Embeddings of any two faces have a high cosine in some networks: 0.79 in dlib's. Less the mean of other people's, strangers are
    about 0.
    """
    embeddings, reference = (np.asarray(x, np.float64) - (0 if centre is None else centre) for x in (embeddings, reference))
    lengths = np.linalg.norm(embeddings, axis=-1) * np.linalg.norm(reference)
    return embeddings @ reference / np.maximum(lengths, 1e-12)


class Identity(NamedTuple):
    """Cosine similarity of the face (CSIM) over the frames with a face; `all_frames` counts 0 for those without; nan where none has one."""

    csim: float
    detected: float
    all_frames: float
    centred: float


def identity(embeddings: np.ndarray, found: np.ndarray, reference: np.ndarray, centre: np.ndarray | None = None) -> Identity:
    """Of face embeddings [F,D], where `found` bool [F], to the reference [D]; `centred` is less the mean [D] of others, nan without."""
    found = np.asarray(found, bool)
    if not found.any():
        return Identity(float("nan"), 0.0, 0.0, float("nan"))
    raw = cosines(embeddings[found], reference)
    centred = float("nan") if centre is None else float(cosines(embeddings[found], reference, centre).mean())
    return Identity(float(raw.mean()), float(found.mean()), float(raw.sum() / len(found)), centred)
