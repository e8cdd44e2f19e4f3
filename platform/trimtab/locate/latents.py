"""Which latents of a sparse autoencoder are moral, and could chance have made them so?

Every latent is correlated with the ten dimensions on some rows (the study's: validation rows), and
the correlations give its class, the sets of each dimension and pole, and three scores of the whole:
the monosemantic ratio, the prototypicality of each dimension and the cosine of each pair of poles.
Shuffled labels say how much of it chance would give. Spearman's rho stands beside Pearson's r,
exact (`ranks`); classes and sets are by Pearson, as published.

That no latent is above the threshold is an outcome, not an error: `Located.outcome` says the best
value found. This module changes nothing; `trimtab.edits.align` trains what is found here.

Cost: two passes through the encoder, one more for prototypicality. Memory: `moments` and `ranks`.

Li, Teng and Wang 2026, arXiv 2603.15615; docs: METHODS 1.6.
"""

from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from trimtab.core.errors import DataError
from trimtab.core.names import LATENT_SCORES
from trimtab.core.poles import POLES
from trimtab.core.seeds import Seed
from trimtab.locate import chance
from trimtab.locate.classes import (
    CLASSES,
    MONOSEMANTIC,
    Sets,
    classify,
    is_strict,
    pair_cosine,
    prototypicality,
    sets_of,
    strongest,
)
from trimtab.locate.config import LatentConfig
from trimtab.locate.folds import Correlated, Data, columns, correlate, rank_correlations
from trimtab.metrics.correlation import MIN_ROWS
from trimtab.metrics.defined import defined, mean_defined
from trimtab.sae.coder import Sae

SHARES: Final = ("monosemantic", "above")
"""What chance is asked about: the classes' ratio, and the share with any |r| above `strong`."""


class Scores(NamedTuple):
    """What the latents of a coder are worth on some rows."""

    classes: Int64[np.ndarray, " classes"]
    """Latents of each class, in the order of `CLASSES`."""
    dead: int
    """Latents that were silent on all of these rows."""
    strict: int
    """Strict latents."""
    prototypicality: Float64[np.ndarray, "10"]
    """By dimension; NaN where undefined."""
    pair_cosine: Float64[np.ndarray, "5"]
    """By foundation; NaN where undefined."""
    strongest: float
    """Largest |r| of all; NaN if none is defined."""
    rows: int
    """Rows looked at."""

    @property
    def width(self) -> int:
        """Latents of the coder."""
        return int(self.classes.sum())

    @property
    def monosemantic(self) -> float:
        """Monosemantic ratio: their share of all latents."""
        return float(self.classes[MONOSEMANTIC] / self.width)

    def named(self, prefix: str = "latents/") -> dict[str, float]:
        """The defined ones, as metrics."""
        shares = self.classes / self.width
        values = (
            *(*shares, self.dead / self.width, self.strict / self.width, self.strongest),
            *(mean_defined(self.prototypicality), *self.prototypicality),
            *(mean_defined(self.pair_cosine), *self.pair_cosine),
            self.rows,
        )
        return defined([f"{prefix}{name}" for name in LATENT_SCORES], values)


class Located(NamedTuple):
    """The latents of one coder on the rows that identify them."""

    r: Float64[np.ndarray, "width 10"]
    """Pearson; NaN where a latent or a dimension is constant."""
    rho: Float64[np.ndarray, "width 10"]
    """Spearman, likewise."""
    active: Int64[np.ndarray, " width"]
    """On how many rows each latent was above 0."""
    classes: Int64[np.ndarray, " width"]
    """Indices into `CLASSES`."""
    strict: Bool[np.ndarray, " width"]
    """Whether each latent is strict."""
    sets: Sets
    """The sets that are trained and scored."""
    scores: Scores
    """On the same rows."""
    shares: dict[str, chance.Ratio]
    """Each of `SHARES` beside what chance gives."""
    significant: Bool[np.ndarray, "width 10"]
    """Latents that follow a dimension beyond chance; none where no shuffles were made."""
    outcome: str
    """What was found, in a sentence."""

    def named(self) -> dict[str, float]:
        """Scores, chance and discoveries, as metrics."""
        values = self.scores.named() | {"latents/above": self.shares["above"].observed}
        for share, ratio in self.shares.items():
            names = [f"latents/{part}/{share}" for part in ("chance", "low", "high", "p")]
            values |= defined(names, ratio[1:])
        found = self.significant.sum(axis=0)
        values |= {f"latents/significant/{p}": float(n) for p, n in zip(POLES, found, strict=True)}
        return values


def locate(sae: Sae, data: Data, config: LatentConfig, seed: Seed) -> Located:
    """Identifies the moral latents of a coder on the rows given.

    Args:
        sae: on any device; its rows come to it.
        data: the rows that identify, usually the validation split.
        seed: of the shuffles.

    Raises:
        DataError: too few rows for any correlation.
        CoderError: the coder is of another width than the rows.
        ActivationError: a latent is NaN or infinite.
    """
    if len(data.labels) < MIN_ROWS:
        raise DataError(
            f"At least {MIN_ROWS} rows must identify the latents, but there are "
            f"{len(data.labels)}. Take more data, or another split (`data.fractions`)."
        )
    draw = seed.child("locate/shuffles").numpy()
    orders = chance.shuffled_orders(data.prompt, config.permutations, draw)
    found = correlate(sae, data, config.batch, orders)
    sets = sets_of(found.r, config)
    return Located(
        r=found.r,
        rho=rank_correlations(sae, data, found.active, config.batch),
        active=found.active,
        classes=classify(found.r, config),
        strict=is_strict(found.r, config),
        sets=sets,
        scores=_scores(sae, data, found, sets, config),
        shares=_shares(found, config),
        significant=_significant(found, config),
        outcome=_outcome(found, config),
    )


def score(sae: Sae, data: Data, sets: Sets, config: LatentConfig) -> Scores:
    """The scores of a coder on other rows than those that identified its latents.

    Args:
        sets: whose latents' prototypicality is taken, found on the rows that identify.

    Raises:
        CoderError: the coder is of another width than the rows.
        ActivationError: a latent is NaN or infinite.
    """
    return _scores(sae, data, correlate(sae, data, config.batch), sets, config)


def _scores(sae: Sae, data: Data, found: Correlated, sets: Sets, config: LatentConfig) -> Scores:
    union = np.unique(np.concatenate(sets.prototypes))
    z = columns(sae, data, union, config.batch)
    of_dimension = [z[:, np.searchsorted(union, latents)] for latents in sets.prototypes]
    return Scores(
        classes=np.bincount(classify(found.r, config), minlength=len(CLASSES)),
        dead=int((found.active == 0).sum()),
        strict=int(is_strict(found.r, config).sum()),
        prototypicality=prototypicality(of_dimension, data.labels.vector, config.min_rows),
        pair_cosine=pair_cosine(found.r),
        strongest=abs(strongest(found.r)[2]),
        rows=found.rows,
    )


def _shares(found: Correlated, config: LatentConfig) -> dict[str, chance.Ratio]:
    every = np.concatenate([found.r[None], found.shuffled])
    shares = {
        "monosemantic": (classify(every, config) == MONOSEMANTIC).mean(axis=-1),
        "above": (np.abs(np.nan_to_num(every)) > config.strong).any(axis=-1).mean(axis=-1),
    }
    return {name: chance.against(float(of[0]), of[1:]) for name, of in shares.items()}


def _significant(found: Correlated, config: LatentConfig) -> Bool[np.ndarray, "width 10"]:
    if not len(found.shuffled):
        return np.zeros(found.r.shape, dtype=bool)
    p = chance.p_values(found.r, found.shuffled, found.active)
    return chance.discoveries(p, config.false_discovery)


def _outcome(found: Correlated, config: LatentConfig) -> str:
    latent, dimension, r = strongest(found.r)
    if np.isnan(r):
        return "No latent varies on these rows, so none has a correlation."
    best = f"latent {latent} follows {POLES[dimension]} with r = {r:.3f}"
    above = int((np.abs(np.nan_to_num(found.r)) > config.strong).any(axis=-1).sum())
    if not above:
        return f"No latent is above |r| = {config.strong:g}; the best value found: {best}."
    return f"{above} of {len(found.r)} latents are above |r| = {config.strong:g}; best: {best}."
