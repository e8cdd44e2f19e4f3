"""The arms of one layer: the unedited model, each kind at each strength, and what they refer to.

    aligned           blend toward the aligned coder's reconstruction: what the sweep is about
    unaligned         the same with the coder before alignment: the reconstruction error alone
    delta             the aligned reconstruction less the unaligned: without that error
    random_latents    the unaligned coder with as many other latents changed, as much
    random_direction  as long as the aligned blend at every position, along one fixed direction

Latents to be changed at random are drawn among those that fire on the very prompts asked, for one
that is silent there would be no control. Cost: one pass over the prompts up to the layer.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from trimtab.core.seeds import Seed
from trimtab.edits.arms import BASELINE, Arm, Coder, Materials
from trimtab.edits.controls import random_direction, random_latents
from trimtab.evaluation.resume import Resumable
from trimtab.models.batching import plan_batches
from trimtab.models.loading import LoadedModel
from trimtab.sae.coder import Sae
from trimtab.sae.folder import load_sae
from trimtab.stream.steer_config import ArmKind, SteerConfig

_TOKEN_BUDGET: Final = 2_048


class Told(NamedTuple):
    """What an arm is, in the words of a table."""

    kind: str
    """`baseline`, or one of `SteerConfig.arms`."""
    alpha: float
    """Strength; 0 for the baseline."""


def arm_name(kind: str, alpha: float) -> str:
    """What an arm is called: `aligned 0.1`."""
    return f"{kind} {alpha:g}"


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
) -> Materials:
    """What the arms refer to, on the model's device and in its dtype.

    Args:
        folders: the layer's coders by name.
        loaded: the model.
        prompts: tokens of what is asked, for `random_latents`.

    Raises:
        CoderError: a coder that cannot be read, or too few latents that fire for a control.
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
    return Materials(coders, directions).to(weight.device, weight.dtype)


@torch.inference_mode()
def firing(
    loaded: LoadedModel, sae: Sae, layer: int, prompts: Sequence[Sequence[int]]
) -> Bool[Tensor, " width"]:
    """Which latents are active at any position of any prompt, at a layer of the unedited model."""
    model = Resumable(loaded.model)
    fires = torch.zeros(sae.width, dtype=torch.bool)
    budget = max(_TOKEN_BUDGET, *(len(tokens) for tokens in prompts))
    for batch in plan_batches([len(tokens) for tokens in prompts], budget):
        tokens = torch.tensor([prompts[i] for i in batch.which], device=model.decoder.device)
        for prefix in model.prefixes(tokens, [layer]):
            states = prefix.hidden.reshape(-1, sae.d_model).to(sae.W_enc)
            fires |= (sae.encode(states) > 0).any(dim=0).cpu()
    return fires
