"""Rows and coders in which it is known which latents are moral."""

import numpy as np
import torch

from trimtab.core.poles import NUM_POLES, TYPICALITIES
from trimtab.core.rows import Labels
from trimtab.locate.folds import Data
from trimtab.sae.coder import CoderConfig, Kind, Sae
from trimtab.sae.rows import from_tensors


def planted_labels(n: int, seed: int = 0) -> Labels:
    """n scenarios: every foundation, polarity, typicality and split among them."""
    draw = np.random.default_rng(seed)
    foundation = draw.integers(5, size=n)
    polarity = draw.integers(-1, 2, size=n)
    pole = np.where(polarity == 0, -1, 2 * foundation + (polarity < 0))
    typicality = np.where(polarity == 0, 0.0, draw.choice(TYPICALITIES, size=n))
    vector = np.zeros((n, NUM_POLES))
    vector[pole >= 0, pole[pole >= 0]] = typicality[pole >= 0]
    split = np.arange(n) % 4
    return Labels(
        index=np.arange(n),
        vector=vector,
        typicality=typicality,
        foundation=foundation,
        pole=pole,
        polarity=polarity,
        split=np.select([split < 2, split < 3], [0, 1], 2),
    )


def planted_data(n: int = 400, seed: int = 0, noise: float = 0.1) -> Data:
    """Rows of 16 entries: the moral vector in the first ten, noise in all, two rows a prompt."""
    labels = planted_labels(n, seed)
    draw = np.random.default_rng(seed + 1)
    x = noise * draw.normal(size=(n, 16))
    x[:, :NUM_POLES] += labels.vector
    rows = from_tensors({3: torch.from_numpy(x).float()})
    return Data(rows, 3, labels, np.arange(n) // 2)


def planted_sae(kind: Kind = "relu", width: int = 24, seed: int = 0, k: int = 8) -> Sae:
    """Latent i < 10 reads dimension i; the others read noise; the last is dead."""
    draw = torch.Generator().manual_seed(seed)
    sae = Sae(CoderConfig(kind=kind, width=width, k=k), 16)
    directions = torch.randn(width, 16, generator=draw)
    directions[:NUM_POLES] = torch.eye(NUM_POLES, 16)
    directions[NUM_POLES:, :NUM_POLES] = 0.0
    directions /= directions.norm(dim=1, keepdim=True)
    with torch.no_grad():
        sae.W_enc.copy_(directions)
        sae.W_dec.copy_(directions)
        sae.b_enc[-1] = -100.0
        sae.b_dec.copy_(0.01 * torch.randn(16, generator=draw))
        sae.center.fill_(0.02)
        sae.threshold.fill_(0.03)
    return sae.requires_grad_(False)
