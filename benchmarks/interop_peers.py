"""The other side of `interop.py`: runs in the peers' environment and imports no trimtab.

SAELens and sparsify read the coders below `ours/`, and write theirs below `written/`: SAELens'
three kinds for inference, with its decoder bias subtracted or not, and the checkpoints that its
trainers leave (norms not folded, batchtopk with its running threshold).
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

D_MODEL, WIDTH, K = 128, 512, 16
PLACE = {"model_name": "toy/model", "hook_name": "blocks.5.hook_resid_post"}


@torch.no_grad()
def main(folder: Path) -> None:
    torch.manual_seed(1)
    names = ("torch", "sae-lens", "eai-sparsify", "transformers")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    (folder / "versions.txt").write_text(versions, "utf-8")
    x = load_file(folder / "x.safetensors")["x"]
    (folder / "theirs").mkdir()
    for path in sorted((folder / "ours").iterdir()):
        found = read_sparsify(path / "layers.5", x) if "sparsify" in path.name else read(path, x)
        save_file(found, folder / "theirs" / f"{path.name}.safetensors")
    written = folder / "written"
    written.mkdir()
    for name, found in [*saelens_for_inference(written, x), *saelens_checkpoints(written, x)]:
        save_file(found, written / f"{name}.safetensors")
    save_file(
        written_by_sparsify(written / "sparsify-own", x), written / "sparsify-own.safetensors"
    )


def read(path: Path, x: Tensor) -> dict[str, Tensor]:
    sae = importlib.import_module("sae_lens").SAE.load_from_disk(path)
    return {"latents": sae.encode(x), "outputs": sae(x)}


def read_sparsify(path: Path, x: Tensor) -> dict[str, Tensor]:
    return by_sparsify(importlib.import_module("sparsify").SparseCoder.load_from_disk(path), x)


def by_sparsify(coder: Any, x: Tensor) -> dict[str, Tensor]:  # noqa: ANN401 (not importable here)
    values, latents, _ = coder.encode(x)
    dense = torch.zeros(len(x), WIDTH).scatter_(1, latents, values)
    return {"latents": dense, "outputs": coder.decode(values, latents)}


def saelens_for_inference(folder: Path, x: Tensor) -> Iterator[tuple[str, dict[str, Tensor]]]:
    lens = importlib.import_module("sae_lens")
    for name in ("Standard", "TopK", "JumpReLU"):
        for subtracted in (True, False):
            extra = {"k": K} if name == "TopK" else {}
            config = getattr(lens, f"{name}SAEConfig")(
                d_in=D_MODEL, d_sae=WIDTH, apply_b_dec_to_input=subtracted, **extra
            )
            config.metadata.__dict__.update(PLACE)
            sae = getattr(lens, f"{name}SAE")(config)
            randomise(sae, x)
            own = f"saelens-{name.lower()}-{'' if subtracted else 'not-'}subtracted"
            sae.save_model(folder / own)
            yield own, {"latents": sae.encode(x), "outputs": sae(x)}


def saelens_checkpoints(folder: Path, x: Tensor) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """What a trainer leaves; the reference is SAELens' own inference of the same coder."""
    lens = importlib.import_module("sae_lens")
    for name in ("TopK", "BatchTopK"):
        config = getattr(lens, f"{name}TrainingSAEConfig")(d_in=D_MODEL, d_sae=WIDTH, k=K)
        config.metadata.__dict__.update(PLACE)
        sae = getattr(lens, f"{name}TrainingSAE")(config)
        randomise(sae, x)
        sae.W_dec.data *= 0.5 + torch.rand(WIDTH, 1)
        if name == "BatchTopK":
            sae.topk_threshold = torch.tensor(0.8, dtype=torch.float64)
        own = f"saelens-{name.lower()}-checkpoint"
        sae.save_model(folder / own)
        sae.save_inference_model(folder / f"{own}-folded")
        found = read(folder / f"{own}-folded", x)
        yield own, found
        yield f"{own}-folded", found


def written_by_sparsify(path: Path, x: Tensor) -> dict[str, Tensor]:
    sparsify = importlib.import_module("sparsify")
    coder = sparsify.SparseCoder(D_MODEL, sparsify.SparseCoderConfig(num_latents=WIDTH, k=K))
    randomise(coder, x)
    coder.save_to_disk(path)
    return by_sparsify(coder, x)


def randomise(coder: torch.nn.Module, x: Tensor) -> None:
    """Random weights of a trained coder's size; the decoder's bias is the rows' mean."""
    for name, parameter in coder.named_parameters():
        drawn = torch.randn(parameter.shape)
        match name:
            case "b_dec":
                drawn = x.mean(0)
            case "threshold":
                drawn = 1 + drawn.abs()
            case "W_dec":
                drawn /= drawn.norm(dim=1, keepdim=True)
            case "W_enc" | "encoder.weight":
                drawn /= D_MODEL**0.5
        parameter.data = drawn.contiguous()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
