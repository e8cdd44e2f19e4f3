"""One side of `sae.py`: a process that trains when it is told to, in the Python that has its package.

    python sae_worker.py SIDE FOLDER

reads FOLDER (`setting.json`, `rows`, `order`, `start` and `held_out.safetensors`) and answers each
line of stdin with a line of JSON. Only the side that was asked works. The commands:

    steps N     N optimiser steps; their seconds, gathering the batches included
    error       fraction of variance unexplained on the held-out rows
    rates       operations a second of the encoder's product, in float32 and in bfloat16

Each runs its own training step as it is written, with all its defaults but these: the start and
the batches are common, Adam's rate is the same and constant, AuxK is off, and the gradient of the
squared error, summed over a row and averaged over rows, is clipped at 1. SAELens and
dictionary_learning cannot switch clipping off; sparsify's trainer does not have it, so one line is
added to its step. Where a loss has another scale, so has its limit.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

CLIP = 1.0
RATE_ROUNDS = 3


class Setting(NamedTuple):
    """What all sides train."""

    d_model: int
    width: int
    k: int
    batch: int
    steps: int
    """All steps, warm-up included."""
    learning_rate: float
    threads: int


class Side:
    """A trainer, at the common start, on the common batches."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        self.setting = setting
        self.rows = load_file(folder / "rows.safetensors")["x"]
        self.order = load_file(folder / "order.safetensors")["order"]
        self.start = load_file(folder / "start.safetensors")
        self.step = 0
        self.prepare()

    def prepare(self) -> None:
        """Makes the trainer."""
        raise NotImplementedError

    def update(self, x: Tensor) -> None:
        """One optimiser step on raw rows."""
        raise NotImplementedError

    def reconstruct(self, x: Tensor) -> Tensor:
        """What the present coder makes of raw rows."""
        raise NotImplementedError

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.update(self.rows[self.order[self.step]])
            self.step += 1


class Ours(Side):
    """`Trainer.step`, as its `run` calls it."""

    selection = "exact"

    def prepare(self) -> None:
        config = importlib.import_module("trimtab.sae.config")
        coder = importlib.import_module("trimtab.sae.coder")
        training = importlib.import_module("trimtab.sae.training")
        setting = self.setting
        kind = coder.CoderConfig(kind="topk", width=setting.width, k=setting.k)
        settings = config.TrainConfig(
            coder=kind,
            epochs=setting.steps * setting.batch / len(self.rows),
            batch_size=setting.batch,
            learning_rate=setting.learning_rate,
            warmup_epochs=0.0,
            final_share=1.0,
            clip=CLIP / setting.d_model,  # our loss is a mean over d_model, theirs a sum
            selection=self.selection,
            unit_scale=False,
            aux_coefficient=0.0,
        )
        sae = coder.Sae(kind, setting.d_model)
        for name in ("W_enc", "W_dec", "b_enc"):
            getattr(sae, name).data = self.start[name].clone()
        sae.center.copy_(self.start["b_dec"])
        self.trainer = training.Trainer(
            importlib.import_module("trimtab.sae.rows").from_tensors({0: self.rows}),
            None,
            settings,
            importlib.import_module("trimtab.core.seeds").Seed(0),
            torch.device("cpu"),
            start={0: sae},
        )

    def update(self, x: Tensor) -> None:
        self.trainer.step({0: x})

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.trainer.saes[0](x)


class OursBf16(Ours):
    """The same, with latents selected in bfloat16."""

    selection = "bfloat16"


class SaeLens(Side):
    """`SAETrainer.step` of SAELens, as its `fit` calls it."""

    def prepare(self) -> None:
        lens = importlib.import_module("sae_lens")
        setting = self.setting
        config = lens.TopKTrainingSAEConfig(
            d_in=setting.d_model, d_sae=setting.width, k=setting.k, aux_loss_coefficient=0.0
        )
        self.sae = lens.TopKTrainingSAE(config)
        for name in ("W_dec", "b_enc", "b_dec"):
            getattr(self.sae, name).data = self.start[name].clone()
        self.sae.W_enc.data = self.start["W_enc"].T.contiguous()
        training = importlib.import_module("sae_lens.training.sae_trainer")
        self.trainer = training.SAETrainer(
            cfg=importlib.import_module("sae_lens.config").SAETrainerConfig(
                total_training_samples=setting.steps * setting.batch,
                train_batch_size_samples=setting.batch,
                lr=setting.learning_rate,
                lr_end=setting.learning_rate,
            ),
            sae=self.sae,
            data_provider=iter(()),
        )

    def update(self, x: Tensor) -> None:
        self.trainer.step(x)
        self.trainer.n_training_steps += 1

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.sae(x)


class DictionaryLearning(Side):
    """`TopKTrainer.update`."""

    def prepare(self) -> None:
        module = importlib.import_module("dictionary_learning.trainers.top_k")
        setting = self.setting
        self.trainer = module.TopKTrainer(
            steps=setting.steps + 1,
            activation_dim=setting.d_model,
            dict_size=setting.width,
            k=setting.k,
            layer=0,
            lm_name="",
            lr=setting.learning_rate,
            auxk_alpha=0.0,
            warmup_steps=0,
            device="cpu",
        )
        coder = self.trainer.ae
        coder.encoder.weight.data = self.start["W_enc"].clone()
        coder.encoder.bias.data = self.start["b_enc"].clone()
        coder.decoder.weight.data = self.start["W_dec"].T.contiguous()
        coder.b_dec.data = self.start["b_dec"].clone()

    def update(self, x: Tensor) -> None:
        self.trainer.update(self.step + 1, x)  # step 0 would replace the decoder's bias

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.trainer.ae(x)


class Sparsify(Side):
    """`SparseCoder` and torch's Adam, in the order of sparsify's trainer."""

    def prepare(self) -> None:
        sparsify = importlib.import_module("sparsify")
        setting = self.setting
        config = sparsify.SparseCoderConfig(num_latents=setting.width, k=setting.k)
        self.coder = sparsify.SparseCoder(setting.d_model, config)
        self.coder.encoder.weight.data = self.start["W_enc"].clone()
        self.coder.encoder.bias.data = self.start["b_enc"].clone()
        self.coder.W_dec.data = self.start["W_dec"].clone()
        self.coder.b_dec.data = self.start["b_dec"].clone()
        self.adam = torch.optim.Adam([{"params": self.coder.parameters()}], setting.learning_rate)
        self.fired = torch.zeros(setting.width, dtype=torch.bool)
        self.since_fired = torch.zeros(setting.width, dtype=torch.long)

    def update(self, x: Tensor) -> None:
        self.coder.set_decoder_norm_to_unit_norm()
        variance = (x - x.mean(0)).pow(2).sum()
        out = self.coder(x, y=x, dead_mask=None, total_variance=variance)
        self.fired[out.latent_indices.flatten()] = True
        float(out.fvu.detach())
        out.fvu.backward()
        self.coder.remove_gradient_parallel_to_decoder_directions()
        torch.nn.utils.clip_grad_norm_(self.coder.parameters(), CLIP * len(x) / float(variance))
        self.adam.step()
        self.adam.zero_grad()
        self.since_fired += len(x)
        self.since_fired[self.fired] = 0
        self.fired.zero_()

    def reconstruct(self, x: Tensor) -> Tensor:
        self.coder.set_decoder_norm_to_unit_norm()
        return self.coder(x).sae_out


SIDES: dict[str, Callable[[Setting, Path], Side]] = {
    "ours": Ours,
    "ours-bf16": OursBf16,
    "sae-lens": SaeLens,
    "dictionary-learning": DictionaryLearning,
    "sparsify": Sparsify,
}


@torch.no_grad()
def unexplained(side: Side, folder: Path) -> float:
    """Summed squared error over the summed squared distance from the mean, on the held-out rows."""
    x = load_file(folder / "held_out.safetensors")["x"]
    wrong = (x - side.reconstruct(x)).double().square().sum()
    return float(wrong / (x - x.mean(0)).double().square().sum())


def matrix_rates(setting: Setting) -> dict[str, float]:
    """The encoder's own product: the best of a few, after one that warms up."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(setting.batch, setting.d_model).to(dtype)
        W = torch.randn(setting.width, setting.d_model).to(dtype)
        out = torch.empty(setting.batch, setting.width, dtype=dtype)
        seconds = [
            clock(lambda x=x, W=W, out=out: torch.mm(x, W.T, out=out))
            for _ in range(1 + RATE_ROUNDS)
        ]
        found[str(dtype).removeprefix("torch.")] = 2 * x.numel() * setting.width / min(seconds[1:])
    return found


def clock(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def answer(command: str, side: Side, setting: Setting, folder: Path) -> dict[str, Any]:
    name, _, count = command.partition(" ")
    match name:
        case "steps":
            return {"seconds": clock(lambda: side.train(int(count)))}
        case "error":
            return {"unexplained": unexplained(side, folder)}
        case _:
            return matrix_rates(setting)


def main(name: str, folder: Path) -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a package prints is no answer
    setting = Setting(**json.loads((folder / "setting.json").read_text("utf-8")))
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    side = SIDES[name](setting, folder)
    print(json.dumps({"torch": torch.__version__}), file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(line.strip(), side, setting, folder)), file=replies, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
