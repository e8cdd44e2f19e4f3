"""The arms of one layer: the unedited model, each kind at each strength, and what they refer to.

    aligned              blend toward the aligned coder's reconstruction: what the sweep is about
    unaligned            the same with the coder before alignment: the reconstruction error alone
    delta                the aligned reconstruction less the unaligned: without that error
    latent_direction     the aligned coder's one latent that tells virtues from vices best, added
    difference_of_means  from the mean state of vices to that of virtues, with no coder at all
    random_latents       the unaligned coder with as many other latents changed, as much
    random_direction     as long as the aligned blend at every position, along one fixed direction

Latents to be changed at random are drawn among those that fire on the very prompts asked, for one
that is silent there would be no control. Virtues and vices are the most typical training
actions, a row the mean over its tokens. Cost: one pass over these and over the prompts, up to the layer.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from trimtab.core.arms import ArmKind
from trimtab.core.errors import DataError
from trimtab.core.poles import POLARITIES
from trimtab.core.seeds import Seed
from trimtab.edits.arms import BASELINE, Arm, Coder, Materials
from trimtab.edits.controls import (
    difference_of_means,
    latent_direction,
    random_direction,
    random_latents,
)
from trimtab.evaluation.resume import Resumable
from trimtab.models.batching import plan_batches
from trimtab.models.loading import LoadedModel
from trimtab.models.tokens import tokenise
from trimtab.sae.coder import Sae
from trimtab.sae.folder import load_sae
from trimtab.scenarios.prompts import prompts as prompts_of
from trimtab.stream.config import ExtractConfig
from trimtab.stream.scenarios import read
from trimtab.stream.steer_config import NEEDS_POLES, SteerConfig

_TOKEN_BUDGET: Final = 2_048
_NUM_TYPICAL: Final = 256
"""Most actions in a mean."""


class Told(NamedTuple):
    """What an arm is, in the words of a table."""

    kind: str
    """`baseline`, or one of `SteerConfig.arms`."""
    alpha: float
    """Strength; 0 for the baseline."""


def arm_name(kind: str, alpha: float) -> str:
    """What an arm is called: `aligned 0.1`; the strength is read back from it, to the bit."""
    return f"{kind} {repr(alpha).removesuffix('.0')}"


def told_arms(config: SteerConfig) -> dict[str, Told]:
    """Every arm by its name, the baseline first."""
    edited = {
        arm_name(kind, alpha): Told(kind, alpha) for kind in config.arms for alpha in config.alphas
    }
    return {BASELINE.name: Told(BASELINE.name, 0.0), **edited}


def arms_of(config: SteerConfig) -> list[Arm]:
    """The arms themselves, in the same order."""
    edited = [_arm(kind, alpha, config.layer) for kind in config.arms for alpha in config.alphas]
    return [BASELINE, *edited]


def _arm(kind: ArmKind, alpha: float, layer: int) -> Arm:
    name = arm_name(kind, alpha)
    match kind:
        case "delta":
            return Arm(
                name=name,
                kind="delta",
                layer=layer,
                alpha=alpha,
                coder="aligned",
                against="unaligned",
            )
        case "difference_of_means" | "latent_direction":
            return Arm(name=name, kind="direction", layer=layer, alpha=alpha, direction=kind)
        case "random_direction":
            return Arm(
                name=name,
                kind="noise",
                layer=layer,
                alpha=alpha,
                coder="aligned",
                direction="random_direction",
            )
        case _:
            return Arm(name=name, kind="blend", layer=layer, alpha=alpha, coder=kind)


def materials_of(
    config: SteerConfig,
    folders: Mapping[str, str],
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    out: Path,
) -> Materials:
    """What the arms refer to, on the model's device and in its dtype.

    Args:
        folders: the layer's coders by name.
        loaded: the model.
        prompts: tokens of what is asked, for `random_latents`.
        out: the folder of runs, with the scenarios that virtues and vices are taken from.

    Raises:
        CoderError: a coder that cannot be read, or too few latents that fire for a control.
        DataError: no training action is a virtue, or none a vice.
    """
    seed = Seed(config.seed).child(f"steer/{config.layer}")
    weight = next(p for p in loaded.model.parameters() if p.is_floating_point())
    coders: dict[str, Coder] = {}
    for name, folder in folders.items():
        sae, about = load_sae(Path(folder))
        coders[name] = Coder(sae.to(weight.device), layer=about.layer)
    aligned = coders["aligned"].sae
    if "random_latents" in config.arms:
        unaligned = coders["unaligned"].sae
        fires = firing(loaded, unaligned, config.layer, prompts)
        control = random_latents(unaligned, aligned, seed.child("random latents"), fires)
        coders["random_latents"] = Coder(control, layer=config.layer)
    directions: dict[str, Tensor] = {}
    if "random_direction" in config.arms:
        like = torch.ones(aligned.d_model)
        directions["random_direction"] = random_direction(like, seed.child("random direction"))
    if set(config.arms) & set(NEEDS_POLES):
        poles = [
            _pooled(loaded, config.layer, _typical(config, polarity, loaded, out))
            for polarity in ("virtue", "vice")
        ]
        if "difference_of_means" in config.arms:
            directions["difference_of_means"] = difference_of_means(*poles)
        if "latent_direction" in config.arms:
            toward, away = (rows.to(aligned.W_enc) for rows in poles)
            directions["latent_direction"] = latent_direction(aligned, toward, away)
    return Materials(coders, directions).to(weight.device, weight.dtype)


def _typical(config: SteerConfig, polarity: str, loaded: LoadedModel, out: Path) -> list[list[int]]:
    """Tokens of the most typical training actions of a polarity, each action once."""
    sign = next(sign for sign, name in POLARITIES.items() if name == polarity)
    rows = read(config.data, out).table.filter(
        (pl.col("split") == "train") & (pl.col("polarity") == sign)
    )
    actions = (
        rows.sort("typicality", descending=True, maintain_order=True)["action"]
        .unique(maintain_order=True)
        .head(_NUM_TYPICAL)
        .to_list()
    )
    if not actions:
        raise DataError(
            f"The arms {' and '.join(NEEDS_POLES)} need virtues and vices, but no training action "
            f"of {config.data.path} is a {polarity}. Leave them out of `arms`, or give data that "
            "has both."
        )
    texts = prompts_of(actions, config.data.prompt)
    longest = ExtractConfig().max_tokens
    return [prompt.tokens for prompt in tokenise(loaded.tokenizer, texts, actions, longest)]


@torch.inference_mode()
def _pooled(
    loaded: LoadedModel, layer: int, prompts: Sequence[Sequence[int]]
) -> Float[Tensor, "prompts d_model"]:
    rows = torch.zeros(len(prompts), loaded.decoder.d_model)
    for which, hidden in _states(loaded, layer, prompts):
        rows[which] = hidden.float().mean(dim=1).cpu()
    return rows


@torch.inference_mode()
def firing(
    loaded: LoadedModel, sae: Sae, layer: int, prompts: Sequence[Sequence[int]]
) -> Bool[Tensor, " width"]:
    """Which latents are active at any position of any prompt, at a layer of the unedited model."""
    fires = torch.zeros(sae.width, dtype=torch.bool)
    for _, hidden in _states(loaded, layer, prompts):
        states = hidden.reshape(-1, sae.d_model).to(sae.W_enc)
        fires |= (sae.encode(states) > 0).any(dim=0).cpu()
    return fires


def _states(
    loaded: LoadedModel, layer: int, prompts: Sequence[Sequence[int]]
) -> Iterator[tuple[Int[np.ndarray, " batch"], Float[Tensor, "batch tokens d_model"]]]:
    """Which prompts, and their states after a block; batches of one length."""
    model = Resumable(loaded.model)
    budget = max(_TOKEN_BUDGET, *(len(tokens) for tokens in prompts))
    for batch in plan_batches([len(tokens) for tokens in prompts], budget):
        tokens = torch.tensor([prompts[i] for i in batch.which], device=model.decoder.device)
        for prefix in model.prefixes(tokens, [layer]):
            yield batch.which, prefix.hidden
