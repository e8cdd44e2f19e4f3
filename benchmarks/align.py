"""Does alignment change held-out moral latents beyond the spread over seeds? On the nursery.

    python benchmarks/align.py --out runs/align [--model nursery:guard] [--layer 4] [--seeds 3]
        [--data-seeds 42 1 2]

Each data seed shuffles the corpus anew, hence trains another nursery: a claim about the nursery is
one about several of them. Within each, for each seed, an autoencoder is trained on the training rows of the packaged corpus (split by
action, .5 / .25 / .25, so that no test row repeats a training action), its latents are identified
on validation rows, and it is aligned twice: as configured, and as a control with the same training
but only the reconstruction and sparsity terms, so that what further training does by itself is not
credited to the moral terms. Test rows judge. Printed: mean and standard deviation over seeds, and
the smallest and largest change, for each data seed, and over the data seeds' means. About 30 s a
seed on one core, and 90 s for each nursery.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from trimtab.core.names import ALIGN_STAGES
from trimtab.core.rows import SPLITS
from trimtab.core.seeds import Seed
from trimtab.edits.align import align
from trimtab.edits.align_compare import compare
from trimtab.edits.align_config import AlignConfig, Weights
from trimtab.locate.config import LatentConfig
from trimtab.locate.folds import Data
from trimtab.locate.latents import locate
from trimtab.models.card import ModelConfig
from trimtab.sae.coder import CoderConfig, Sae
from trimtab.sae.config import TrainConfig
from trimtab.sae.rows import stored_rows
from trimtab.sae.training import Trainer
from trimtab.stream.activations import activations
from trimtab.stream.config import ExtractConfig, ExtractJob, WorkerConfig
from trimtab.stream.moral import prompts_of
from trimtab.stream.train_config import AllRows

LATENTS = LatentConfig(min_rows=15)
MORAL = AlignConfig(latents=LATENTS, unit_scale=True, learning_rate=1e-3)
CONTROL = MORAL.model_copy(
    update={"weights": Weights(align=0.0, polarity=0.0, prototype=0.0, mono=0.0)}
)
ARMS = {"moral": MORAL, "control": CONTROL}
Run = dict[str, dict[str, float]]
"""Scores of each arm by name."""
SCORES = ("prototypicality/mean", "pair_cosine/mean", "monosemantic", "strict", "fvu")


def rows_of(model: str, layer: int, data_seed: int, out: Path) -> Data:
    data = AllRows(split="action", fractions=(0.5, 0.25), seed=data_seed)
    extract, workers = ExtractConfig(token_budget=1024), WorkerConfig(threads=1)
    job = ExtractJob(data=data, extract=extract, workers=workers, out=out)
    found = activations(ModelConfig(id=model), job, lambda *_: None)
    rows = stored_rows(found.store, "mean", (layer,), len(found.labels))
    return Data(rows, layer, found.labels, prompts_of(found))


def coder_of(splits: list[Data], kind: str, seed: int) -> Sae:
    width, k = 512, 24
    config = TrainConfig(
        coder=CoderConfig.model_validate({"kind": kind, "width": width, "k": k}),
        target_l0=float(k) if kind == "relu" else None,
        epochs=300.0,
        batch_size=256,
        learning_rate=1e-3,
    )
    train, validation = (part.rows for part in splits[:2])
    trainer = Trainer(train, validation, config, Seed(seed), torch.device("cpu"))
    for _ in trainer.run():
        pass
    return trainer.saes[splits[0].layer].requires_grad_(False)


def one_seed(splits: list[Data], kind: str, seed: int) -> Run:
    train, validation, test = splits
    sae = coder_of(splits, kind, seed)
    located = locate(sae, validation, LATENTS, Seed(seed))
    ratio = located.shares["monosemantic"]
    print(
        f"seed {seed}: {located.outcome} Monosemantic {ratio.observed:.3f}, by chance "
        f"{ratio.chance:.3f} [{ratio.low:.3f}, {ratio.high:.3f}], p = {ratio.p:.2f}; "
        f"{int(located.significant.sum())} (latent, dimension) beyond chance",
        flush=True,
    )
    found = {}
    for name, config in ARMS.items():
        aligned = align(sae, located, train, validation, config, Seed(seed))
        found[name] = compare(sae, aligned.sae, located.sets, validation, test, LATENTS).named() | {
            "best": float(aligned.best),
            "trained": float(len(aligned.trained)),
        }
    return found


def one_data_seed(args: argparse.Namespace, data_seed: int) -> list[Run]:
    data = rows_of(args.model, args.layer, data_seed, args.out)
    splits = [data.of_split(code) for code in range(len(SPLITS))]
    sizes = ", ".join(f"{n} {len(s.labels)}" for n, s in zip(SPLITS, splits, strict=True))
    print(f"\n{args.model}, layer {args.layer}, {args.kind}, data seed {data_seed}; rows: {sizes}")
    runs = [one_seed(splits, args.kind, seed) for seed in range(args.seeds)]
    for name in ARMS:
        trained = [int(run[name]["trained"]) for run in runs]
        best = [int(run[name]["best"]) for run in runs]
        print(f"{name}: latents trained {trained}; best epochs {best}")
        show(name, runs)
    return runs


def show(name: str, runs: list[Run]) -> None:
    for score in SCORES:
        by_stage = {
            stage: [run[name][f"align/{stage}/{score}"] for run in runs] for stage in ALIGN_STAGES
        }
        change = by_stage["change"]
        said = "  ".join(f"{stage} {spread(v)}" for stage, v in by_stage.items())
        print(f"  {score:22s} {said}  [{min(change):+.4f}, {max(change):+.4f}]", flush=True)


def mean_of(runs: list[Run]) -> Run:
    keys = [f"align/{stage}/{score}" for stage in ALIGN_STAGES for score in SCORES]
    return {
        name: {key: float(np.mean([run[name][key] for run in runs])) for key in keys}
        for name in ARMS
    }


def spread(values: list[float]) -> str:
    deviation = np.std(values, ddof=1) if len(values) > 1 else float("nan")
    return f"{np.mean(values):+.4f} ± {deviation:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Alignment on the nursery, over nurseries and seeds, beside a control."
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="nursery:guard")
    parser.add_argument("--layer", type=int, default=4)
    parser.add_argument("--kind", default="relu")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-seeds", type=int, nargs="+", default=[42])
    args = parser.parse_args()
    torch.set_num_threads(1)
    means = [mean_of(one_data_seed(args, data_seed)) for data_seed in args.data_seeds]
    print(f"\nover the means of data seeds {args.data_seeds}, {args.seeds} seeds each")
    for name in ARMS:
        print(name)
        show(name, means)


if __name__ == "__main__":
    main()
