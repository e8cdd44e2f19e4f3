"""What changes while training goes on: the learning rate, lambda, and whether it may stop.

Pure functions of where training is, in epochs, and of what an epoch measured.

Li, Teng and Wang 2026, arXiv 2603.15615 (lambda's rule and its limits, the stop rule).
"""

import math
from typing import Final

from trimtab.sae.config import StopRule, TrainConfig

LAMBDA_RULE: Final = ((2.0, 1.2), (1.1, 1.05))
"""Above this L0 / target, lambda is multiplied by this."""
LAMBDA_FALLS: Final = (0.9, 0.95)
"""Below this L0 / target, lambda is multiplied by this."""
LAMBDA_LIMITS: Final = (1e-6, 100.0)


def learning_rate(config: TrainConfig, epochs_done: float) -> float:
    """The rate of the step after which this many epochs are done: linear rise, then a cosine."""
    warmup, peak = config.warmup_epochs, config.learning_rate
    if epochs_done < warmup:
        return peak * epochs_done / warmup
    along = min(1.0, (epochs_done - warmup) / max(config.epochs - warmup, 1e-12))
    share = config.final_share
    return peak * (share + (1 - share) * (1 + math.cos(math.pi * along)) / 2)


def next_lambda(value: float, l0: float, target: float) -> float:
    """Lambda after an epoch in which rows had `l0` active latents on average."""
    ratio = l0 / target
    factor = next((by for above, by in LAMBDA_RULE if ratio > above), 1.0)
    if ratio < LAMBDA_FALLS[0]:
        factor = LAMBDA_FALLS[1]
    low, high = LAMBDA_LIMITS
    return min(max(value * factor, low), high)


def good_epoch(rule: StopRule, target: float, mse: float, l0: float) -> bool:
    """Whether an epoch's validation error and L0 are where the rule wants them."""
    return mse < rule.mse and abs(l0 - target) <= rule.l0_tolerance * target
