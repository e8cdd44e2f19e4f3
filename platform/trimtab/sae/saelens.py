"""SAELens' layout: `cfg.json` and `sae_weights.safetensors`, in both directions.

Written so that `sae_lens.SAE.load_from_disk` reads it as it is. SAELens has no centre; it folds
into the biases. With `apply_b_dec_to_input` SAELens computes

    z = activation((x - b) W + b')     x' = z W_dec + b

and ours is the same with b = b_dec + c and b' = b_enc + W_enc b_dec. The other way round (b' =
b_enc - W_enc c, nothing subtracted) is the same on paper, but takes the difference of two large
products where activations lie far from the origin: at 4,096 wide with a mean of length 1,000 the
latents are off by 3e-5 in float32, and by 3e-6 this way.

Kinds: relu is `standard`, topk `topk`; batchtopk is saved as SAELens saves it for inference, as
`jumprelu` with its one threshold. Read: these three, and `batchtopk` as SAELens' trainer leaves it.
`rescale_acts_by_decoder_norm` is folded into the weights, as SAELens itself does for inference.
What rescales its input at run time has no counterpart here and is refused by name.

Checked against sae-lens 6.54.12 (`make interop`). Cost: one transposed copy of the encoder.
"""

from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.core.errors import CoderError
from trimtab.core.files import write_json
from trimtab.sae.about import About, Loaded, layer_of_hook
from trimtab.sae.coder import CoderConfig, Kind, Sae
from trimtab.sae.files import Shape, build, count, read_settings, read_tensors, write_tensors

SETTINGS: Final = "cfg.json"
WEIGHTS: Final = "sae_weights.safetensors"

LAYOUT_OF: Final = "6.54.12"
"""The SAELens whose layout is written; below 6 its loader would convert an older one."""

_ARCHITECTURES: Final[dict[Kind, str]] = {
    "relu": "standard",
    "topk": "topk",
    "batchtopk": "jumprelu",
    "jumprelu": "jumprelu",
}
_KINDS: Final[dict[str, Kind]] = {
    "standard": "relu",
    "topk": "topk",
    "batchtopk": "batchtopk",
    "jumprelu": "jumprelu",
}
_OLDEST: Final = 6
_CHUNK: Final = 4096
_ONLY: Final = {"normalize_activations": "none", "reshape_activations": "none"}
_SMALLEST_NORM: Final = 1e-8
_THRESHOLDS: Final[dict[Kind, str]] = {"batchtopk": "topk_threshold", "jumprelu": "threshold"}


def write_saelens(folder: Path, sae: Sae, about: About) -> None:
    """Writes the two files into a folder that is there.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    b_enc, b_dec = folded_biases(sae)
    tensors = {"W_enc": sae.W_enc.T, "W_dec": sae.W_dec, "b_enc": b_enc, "b_dec": b_dec}
    if _ARCHITECTURES[sae.config.kind] == "jumprelu":
        tensors["threshold"] = sae.threshold
    write_json(folder / SETTINGS, _settings(sae, about))
    write_tensors(folder / WEIGHTS, tensors)


def folded_biases(sae: Sae) -> tuple[Float[Tensor, " width"], Float[Tensor, " d_model"]]:
    """Encoder and decoder bias of a coder without a centre that subtracts the latter first.

    Summed in float64; the encoder's bias makes up for the rounding of the decoder's.
    """
    center = sae.center.detach().cpu().double()
    b_dec = (sae.b_dec.detach().cpu().double() + center).float()
    away = b_dec.double() - center
    parts = [part.cpu().double() @ away for part in sae.W_enc.detach().split(_CHUNK)]
    return (sae.b_enc.detach().cpu().double() + torch.cat(parts)).float(), b_dec


def _settings(sae: Sae, about: About) -> dict[str, Any]:
    known = about.hook_points
    metadata = {
        "sae_lens_version": LAYOUT_OF,
        "sae_lens_training_version": None,
        "model_name": about.model,
        "pooling": about.pooling,
        "dataset": about.data_hash,
    }
    if known:
        metadata |= {"hook_name": known[1], "hf_hook_name": known[0], "hook_layer": about.layer}
    settings: dict[str, Any] = {
        "architecture": _ARCHITECTURES[sae.config.kind],
        "d_in": sae.d_model,
        "d_sae": sae.width,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
    }
    if sae.config.kind == "topk":
        settings |= {"k": sae.config.k, "rescale_acts_by_decoder_norm": False}
    return settings


def read_saelens(folder: Path) -> Loaded:
    """An autoencoder that SAELens wrote.

    Raises:
        CoderError: an architecture or option that has no counterpart here, or damaged files.
    """
    path = folder / SETTINGS
    settings = read_settings(path)
    _refuse(settings, path)
    kind = _kind(settings, path)
    width, d_model = (count(settings, key, path) for key in ("d_sae", "d_in"))
    k = count(settings, "k", path) if kind in ("topk", "batchtopk") else 1
    if k > width:
        raise CoderError(f"`k <= d_sae` must hold in {path}, but got {k=}, d_sae={width}.")
    found = read_tensors(folder / WEIGHTS, _shapes(kind, width, d_model))
    tensors = _own(found, settings)
    if kind in _THRESHOLDS:
        tensors["threshold"] = found[_THRESHOLDS[kind]].expand(width).clone()
    return Loaded(build(CoderConfig(kind=kind, width=width, k=k), tensors), _about(settings))


def read_matrices(folder: Path, kind: Kind, width: int, d_model: int) -> dict[str, Tensor]:
    """`W_enc` and `W_dec` of a folder that `write_saelens` wrote, to the bit.

    Raises:
        CoderError: the file is damaged.
    """
    shapes = _shapes(_KINDS[_ARCHITECTURES[kind]], width, d_model)
    found = read_tensors(folder / WEIGHTS, shapes)
    return {"W_enc": found["W_enc"].T.contiguous(), "W_dec": found["W_dec"]}


def _refuse(settings: dict[str, Any], path: Path) -> None:
    version = str((settings.get("metadata") or {}).get("sae_lens_version"))
    major = version.partition(".")[0]
    if not major.isdecimal() or int(major) < _OLDEST:
        raise CoderError(
            f"{path} must be written by SAELens {_OLDEST} or newer, but says {version!r}. Load it "
            "with a newer SAELens and save it again with its `save_model`."
        )
    for option, only in _ONLY.items():
        if (value := settings.get(option, only)) != only:
            raise CoderError(
                f"`{option}: {value}` in {path} is not supported, only `{only}`: this autoencoder "
                "changes its input at run time. Choose one without, or let SAELens fold it."
            )


def _kind(settings: dict[str, Any], path: Path) -> Kind:
    architecture = settings.get("architecture")
    if architecture not in _KINDS:
        raise CoderError(
            f"`architecture: {architecture}` in {path} is not supported; known are "
            f"{', '.join(_KINDS)}."
        )
    return _KINDS[architecture]


def _shapes(kind: Kind, width: int, d_model: int) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {
        "W_enc": (d_model, width),
        "W_dec": (width, d_model),
        "b_enc": (width,),
        "b_dec": (d_model,),
    }
    thresholds: dict[Kind, dict[str, Shape]] = {
        "batchtopk": {"topk_threshold": ()},
        "jumprelu": {"threshold": (width,)},
    }
    return shapes | thresholds.get(kind, {})


def _own(found: dict[str, Tensor], settings: dict[str, Any]) -> dict[str, Tensor]:
    """Our names; a decoder bias that is subtracted from the input is a centre, to the bit."""
    bias = found["b_dec"]
    subtracted = settings.get("apply_b_dec_to_input", True)
    tensors = {
        "W_enc": found["W_enc"].T.contiguous(),
        "W_dec": found["W_dec"],
        "b_enc": found["b_enc"],
        "b_dec": torch.zeros_like(bias) if subtracted else bias,
        "center": bias if subtracted else torch.zeros_like(bias),
    }
    if settings.get("rescale_acts_by_decoder_norm"):
        norm = tensors["W_dec"].norm(dim=1).clamp(min=_SMALLEST_NORM)
        tensors["W_enc"] *= norm[:, None]
        tensors["b_enc"] = tensors["b_enc"] * norm
        tensors["W_dec"] = tensors["W_dec"] / norm[:, None]
    return tensors


def _about(settings: dict[str, Any]) -> About:
    metadata = settings["metadata"]
    names = ("hook_name", "hf_hook_name")
    layers = [layer_of_hook(str(metadata[name])) for name in names if metadata.get(name)]
    return About(
        model=metadata.get("model_name") or "",
        layer=next((layer for layer in layers if layer is not None), None),
        provenance={"saelens": metadata},
        written_by="saelens",
    )
