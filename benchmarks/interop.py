"""Do SAELens and sparsify read what we write, and we what they write? `make interop` asks them.

The packages live in an environment of their own (`.interop`, from `benchmarks/peers.txt`), whose
Python runs `interop_peers.py`; both sides see the same files:

    x.safetensors       rows, with a mean far from the origin as a residual stream has
    ours/NAME/          written here, read there: their latents and outputs to theirs/NAME.safetensors
    written/NAME/       written there, with latents and outputs beside it; read here

Latents and outputs on the same rows must agree within 1e-5, or the exit code is 1. The rows are
few, so that no latent lies within rounding of its threshold.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trimtab.sae.about import About
from trimtab.sae.coder import CoderConfig, Kind, Sae
from trimtab.sae.folder import load_sae, save_sae
from trimtab.sae.sparsify import export_sparsify

WITHIN = 1e-5
D_MODEL, WIDTH, K, ROWS = 128, 512, 16, 64
MEAN_LENGTH = 100.0
ABOUT = About(model="toy/model", layer=5, pooling="mean")


class Found(NamedTuple):
    """How far two sides are apart on the same rows."""

    name: str
    """What was written."""
    direction: str
    """Who wrote it and who read it."""
    latents: float
    """Largest difference of a latent."""
    outputs: float
    """Largest difference of a reconstruction."""
    active: float
    """Active latents a row, of the side that wrote it."""

    @property
    def holds(self) -> bool:
        return max(self.latents, self.outputs) <= WITHIN and self.active > 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = Path(__file__).parents[1] / ".interop" / "bin" / "python"
    parser.add_argument("--python", type=Path, default=default, help="the peers' Python")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tt-") as name:
        folder = Path(name)
        ours = write_ours(folder)
        script = Path(__file__).with_name("interop_peers.py")
        subprocess.run([options.python, script, folder], check=True)
        versions = (folder / "versions.txt").read_text("utf-8")
        found = [*what_they_read(folder, ours), *what_they_wrote(folder)]
    print("\n".join(report(found, versions)))
    return int(not all(one.holds for one in found))


def write_ours(folder: Path) -> dict[str, Sae]:
    """The rows, and one coder of each kind in each format that has it."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(D_MODEL, generator=generator)
    mean *= MEAN_LENGTH / mean.norm()
    x = mean + torch.randn(ROWS, D_MODEL, generator=generator)
    save_file({"x": x}, folder / "x.safetensors")
    coders = {kind: random_coder(kind, mean, generator) for kind in get_args(Kind)}
    for kind, sae in coders.items():
        save_sae(folder / "ours" / f"saelens-{kind}", sae, ABOUT)
    export_sparsify(folder / "ours" / "sparsify-topk", coders["topk"], ABOUT)
    named = {f"saelens-{kind}": sae for kind, sae in coders.items()}
    return named | {"sparsify-topk": coders["topk"]}


def random_coder(kind: Kind, mean: Tensor, generator: torch.Generator) -> Sae:
    sae = Sae(CoderConfig(kind=kind, width=WIDTH, k=K), D_MODEL)
    for tensor in sae.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    sae.W_enc.data /= D_MODEL**0.5
    sae.W_dec.data /= sae.W_dec.data.norm(dim=1, keepdim=True)
    sae.center.copy_(mean)
    each = sae.threshold.abs() + 1
    sae.threshold.copy_({"jumprelu": each, "batchtopk": torch.ones(WIDTH)}.get(kind, 0 * each))
    return sae


@torch.no_grad()
def what_they_read(folder: Path, ours: dict[str, Sae]) -> Iterator[Found]:
    x = load_file(folder / "x.safetensors")["x"]
    for name, sae in ours.items():
        theirs = load_file(folder / "theirs" / f"{name}.safetensors")
        yield compare(name, "ours, read by them", (sae.encode(x), sae(x)), theirs)


@torch.no_grad()
def what_they_wrote(folder: Path) -> Iterator[Found]:
    x = load_file(folder / "x.safetensors")["x"]
    for path in sorted((folder / "written").glob("*.safetensors")):
        sae = load_sae(path.with_suffix("")).sae
        yield compare(path.stem, "theirs, read by us", (sae.encode(x), sae(x)), load_file(path))


def compare(
    name: str, direction: str, here: tuple[Tensor, Tensor], theirs: dict[str, Tensor]
) -> Found:
    latents, outputs = here
    return Found(
        name,
        direction,
        float((latents - theirs["latents"]).abs().max()),
        float((outputs - theirs["outputs"]).abs().max()),
        float((theirs["latents"] > 0).sum(1).float().mean()),
    )


def report(found: list[Found], versions: str) -> Iterator[str]:
    yield f"{versions.strip()}; {ROWS} rows with a mean of length {MEAN_LENGTH:.0f}, float32\n"
    yield "| autoencoder | direction | active | latents differ by | outputs by | within 1e-5 |"
    yield "|---|---|---|---|---|---|"
    for one in found:
        verdict = "yes" if one.holds else "NO"
        yield (
            f"| {one.name} | {one.direction} | {one.active:.1f} | {one.latents:.1e} | "
            f"{one.outputs:.1e} | {verdict} |"
        )


if __name__ == "__main__":
    sys.exit(main())
