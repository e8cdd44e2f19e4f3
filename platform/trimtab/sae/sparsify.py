"""sparsify's layout, of topk coders: `cfg.json` and `sae.safetensors`, in both directions.

    z = topk(relu((x - b) W^T + b'))     x' = z W_dec + b

A run's folder has one such folder for each hookpoint (`layers.5`), beside a `config.json` that
names the model. Transcoders, skip connections and the groupmax activation are other functions,
and are refused by name. sparsify does not say how its rows were pooled: they are tokens.

Checked against eai-sparsify 1.3.3 (`make interop`).
"""

from pathlib import Path
from typing import Any, Final

import torch

from trimtab.core.errors import CoderError
from trimtab.core.files import writable_folder, write_json
from trimtab.sae.about import About, Loaded, layer_of_hook
from trimtab.sae.coder import CoderConfig, Sae
from trimtab.sae.files import Shape, build, count, read_settings, read_tensors, write_tensors
from trimtab.sae.saelens import folded_biases

SETTINGS: Final = "cfg.json"
WEIGHTS: Final = "sae.safetensors"
RUN_SETTINGS: Final = "config.json"

_ONLY: Final = {"activation": "topk", "transcode": False, "skip_connection": False}


def export_sparsify(folder: Path, sae: Sae, about: About) -> Path:
    """Writes a topk coder as sparsify does, below the folder under its hookpoint's name.

    Args:
        folder: of the run; `SparseCoder.load_many` takes it.
        sae: a `topk` coder.
        about: where it belongs.

    Returns:
        The coder's own folder, which `SparseCoder.load_from_disk` takes.

    Raises:
        CoderError: sparsify has no such kind, or the layer is not known.
        OutputError: the disk is full or the folder cannot be written.
    """
    if sae.config.kind != "topk":
        raise CoderError(
            f"sparsify's format has topk coders only, but this one is {sae.config.kind}. "
            "SAELens reads our own folder as it is."
        )
    if about.layer is None:
        raise CoderError(
            "sparsify names a coder's folder by its layer, but this one's is not known. "
            "Give `layer` in its `About`."
        )
    own = writable_folder(folder / f"layers.{about.layer}")
    b_enc, b_dec = folded_biases(sae)
    settings = _ONLY | {
        "expansion_factor": max(1, sae.width // sae.d_model),
        "normalize_decoder": True,
        "num_latents": sae.width,
        "k": sae.config.k,
        "multi_topk": False,
        "d_in": sae.d_model,
    }
    write_json(folder / RUN_SETTINGS, {"model": about.model, "revision": about.revision})
    write_json(own / SETTINGS, settings)
    tensors = {"encoder.weight": sae.W_enc, "encoder.bias": b_enc}
    write_tensors(own / WEIGHTS, tensors | {"W_dec": sae.W_dec, "b_dec": b_dec})
    return own


def read_sparsify(folder: Path) -> Loaded:
    """An autoencoder that sparsify wrote.

    Raises:
        CoderError: a variant that has no counterpart here, or damaged files.
    """
    path = folder / SETTINGS
    settings = read_settings(path)
    for option, only in _ONLY.items():
        if (value := settings.get(option, only)) != only:
            raise CoderError(
                f"`{option}: {value}` in {path} is not supported, only `{only}`: it is another "
                "function than an autoencoder's with the k largest latents."
            )
    d_model, k = count(settings, "d_in", path), count(settings, "k", path)
    if settings.get("num_latents"):
        width = count(settings, "num_latents", path)
    else:
        width = d_model * count(settings, "expansion_factor", path)
    if k > width:
        raise CoderError(f"`k <= num_latents` must hold in {path}, but got {k=}, {width=}.")
    shapes: dict[str, Shape] = {
        "encoder.weight": (width, d_model),
        "encoder.bias": (width,),
        "W_dec": (width, d_model),
        "b_dec": (d_model,),
    }
    found = read_tensors(folder / WEIGHTS, shapes)
    tensors = {
        "W_enc": found["encoder.weight"],
        "b_enc": found["encoder.bias"],
        "W_dec": found["W_dec"],
        "b_dec": torch.zeros(d_model),
        "center": found["b_dec"],  # subtracted from the input and added to the output
    }
    sae = build(CoderConfig(kind="topk", width=width, k=k), tensors)
    return Loaded(sae, _about(folder, settings))


def _about(folder: Path, settings: dict[str, Any]) -> About:
    run = folder.parent / RUN_SETTINGS
    told = read_settings(run) if run.is_file() else {}
    return About(
        model=told.get("model") or "",
        revision=told.get("revision") or "",
        layer=layer_of_hook(folder.name),
        provenance={"sparsify": settings},
        written_by="sparsify",
    )
