"""One layer in training: its coder, its optimiser, its lambda, its silent latents.

The coder is held for inputs that are centred and divided by the layer's scale; `ready` gives the
same function of raw activations. A step is: gradients (`topk_step`, or autograd for the kinds with
a penalty), the part parallel to decoder rows removed, the norm clipped, AdamW, decoder rows back
to length 1.

Cost: weights, gradients and AdamW's two moments, 16 bytes a weight; 8.6 GB at 4,096 x 65,536.
"""

from dataclasses import dataclass, field
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.core.seeds import Seed
from trimtab.sae.batches import Batches
from trimtab.sae.coder import Sae
from trimtab.sae.config import TrainConfig
from trimtab.sae.losses import JumpRelu, Step, Terms, dense_terms
from trimtab.sae.start import fresh, given, moments, scale_of, unit_rows
from trimtab.sae.topk import Dead, Workspace, topk_step

TOTALS: Final = ("loss", "mse", "l0", "l1", "aux", "gradient_norm")
"""What is summed over the steps between two reports."""
THRESHOLD_MEMORY: Final = 0.99
"""How much of the running threshold of batchtopk stays at each step."""


@dataclass
class LayerTraining:
    """All that changes while a layer is trained."""

    sae: Sae
    """For centred and scaled inputs; its own centre is the layer's."""
    scale: float
    """What centred activations are divided by."""
    variance: float
    """Mean variance of an element of the raw activations."""
    config: TrainConfig
    """How it is trained."""
    penalty: float
    """Lambda."""
    good_epochs: int = 0
    """Epochs in a row at whose end the stop rule held."""
    log_threshold: nn.Parameter | None = None
    """jumprelu: the logarithm of the thresholds, which is what is trained."""
    silent_rows: Tensor = field(init=False)
    """[width]: training rows since each latent was last active."""
    totals: Tensor = field(init=False)
    """`TOTALS`, summed over the steps since the last report, and the number of these."""
    active: Tensor = field(init=False)
    """Active entries and rows of this epoch."""
    optimiser: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        device = self.sae.W_enc.device
        if self.config.coder.kind == "jumprelu":
            self.log_threshold = nn.Parameter(self.sae.threshold.log())
        self.silent_rows = torch.zeros(self.sae.width, device=device)
        self.totals = torch.zeros(len(TOTALS) + 1, dtype=torch.float64, device=device)
        self.active = torch.zeros(2, dtype=torch.float64, device=device)
        self.optimiser = torch.optim.AdamW(
            self.weights.values(),
            lr=self.config.learning_rate,
            eps=self.config.epsilon,
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        for weight in self.weights.values():
            weight.grad = torch.zeros_like(weight)

    @property
    def sparse(self) -> bool:
        """Whether the number of active latents is given, so that only these are touched."""
        return self.config.coder.kind in ("topk", "batchtopk")

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """What is trained."""
        weights = dict(self.sae.named_parameters())
        if self.log_threshold is not None:
            weights["log_threshold"] = self.log_threshold
        return weights

    def scaled(self, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """Raw activations as the coder in training sees them."""
        center = self.sae.center
        x = x.to(center.device, torch.float32, non_blocking=True) - center
        return x if self.scale == 1 else x.div_(self.scale)

    def gradients(self, x: Float[Tensor, "n d_model"], work: Workspace) -> Terms:
        """Writes the gradients of a batch of raw activations; the weights stay as they are."""
        x = self.scaled(x)
        if self.sparse:
            return topk_step(x, self.sae, self.config, work, self.dead())
        return self._dense(x)

    def gradient_norm(self) -> float:
        """Of all weights together."""
        grads = [weight.grad for weight in self.weights.values() if weight.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))

    def update(self, terms: Terms, norm: float, rate: float, rows: int) -> None:
        """The optimiser's step with the gradients that are there, and what is counted of it."""
        clip = self.config.clip
        if clip is not None and norm > clip:
            for weight in self.weights.values():
                assert weight.grad is not None
                weight.grad.mul_(clip / norm)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        unit_rows(self.sae.W_dec)
        self._count(terms, norm, rows)

    def let_go(self) -> None:
        """Frees what only another step would need: three quarters of the memory."""
        self.optimiser.state.clear()
        for weight in self.weights.values():
            weight.grad = None

    def dead(self) -> Dead | None:
        """The dead latents, where AuxK is on and there are any."""
        config = self.config
        if not config.aux_coefficient:
            return None
        latents = (self.silent_rows >= config.dead_after_rows).nonzero().squeeze(1)
        num = config.aux_latents or max(1, self.sae.d_model // 2)
        return Dead(latents, num, config.aux_coefficient) if len(latents) else None

    @torch.no_grad()
    def ready(self) -> Sae:
        """The coder as a function of raw activations; it shares the two matrices."""
        with torch.device("meta"):
            sae = Sae(self.config.coder, self.sae.d_model)
        sae.W_enc, sae.W_dec = self.sae.W_enc, self.sae.W_dec
        sae.b_enc = nn.Parameter(self.sae.b_enc * self.scale)
        sae.b_dec = nn.Parameter(self.sae.b_dec * self.scale)
        sae.center = self.sae.center
        threshold = self.sae.threshold if self.log_threshold is None else self.log_threshold.exp()
        sae.threshold = threshold * self.scale
        return sae

    def _dense(self, x: Tensor) -> Terms:
        """Gradients of a relu or jumprelu coder, by autograd."""
        for weight in self.weights.values():
            assert weight.grad is not None
            weight.grad.zero_()
        sae, config, threshold = self.sae, self.config, self.log_threshold
        low = config.precision == "bfloat16"
        with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
            pre = nn.functional.linear(x, sae.W_enc, sae.b_enc).to(x.dtype)
            if threshold is None:
                z, gates = pre.relu(), None
            else:
                z = JumpRelu.apply(pre, threshold.exp(), config.bandwidth)
                gates = Step.apply(pre, threshold.exp(), config.bandwidth)
            found = nn.functional.linear(z, sae.W_dec.t(), sae.b_dec).to(x.dtype)
        terms = dense_terms(x, z, gates, found, self.penalty)
        terms.loss.backward()
        if config.project_gradient:
            _remove_parallel(sae.W_dec)
        return terms._replace(loss=terms.loss.detach())

    def report(self) -> dict[str, float]:
        """What was seen since the last report, in the activations' own units."""
        *sums, steps = self.totals.tolist()
        self.totals.zero_()
        seen = {name: value / steps for name, value in zip(TOTALS, sums, strict=True)}
        seen["mse"] *= self.scale**2
        seen["l1"] *= self.scale
        seen["fvu"] = seen["mse"] / self.variance if self.variance else float("nan")
        seen["dead"] = float((self.silent_rows >= self.config.dead_after_rows).float().mean())
        if self.sparse:
            return seen
        del seen["aux"]
        return seen | {"lambda": self.penalty}

    def epoch_l0(self) -> float:
        """Active latents of a row in the epoch that ends here."""
        entries, rows = self.active.tolist()
        self.active.zero_()
        return entries / rows

    @torch.no_grad()
    def _count(self, terms: Terms, norm: float, rows: int) -> None:
        self.silent_rows.add_(rows).masked_fill_(terms.fired > 0, 0)
        seen = (terms.loss, terms.mse, terms.l0, terms.l1, terms.aux)
        self.totals[:-2] += torch.stack(seen)
        self.totals[-2] += norm
        self.totals[-1] += 1
        self.active[0] += terms.fired.sum()
        self.active[1] += rows
        if self.config.coder.kind == "batchtopk":
            before = self.sae.threshold
            after = torch.lerp(terms.least, before, THRESHOLD_MEMORY)
            self.sae.threshold.copy_(torch.where(before > 0, after, terms.least))


@torch.no_grad()
def _remove_parallel(W: nn.Parameter) -> None:
    """Takes from each row's gradient what is parallel to the row, of length 1."""
    assert W.grad is not None
    along = torch.linalg.vecdot(W.grad, W, dim=1)
    W.grad.addcmul_(along.unsqueeze(1), W, value=-1)


def begin(
    batches: Batches,
    layer: int,
    config: TrainConfig,
    seed: Seed,
    device: torch.device,
    start: Sae | None,
) -> LayerTraining:
    """A layer before its first step.

    Args:
        batches: its rows are read once for the centre and the scale.
        layer: the layer.
        config: how it is trained.
        seed: of the training; names the layer's draws.
        device: where its weights live.
        start: a coder to go on from, whose centre is kept.

    Raises:
        TrainingError: there is no row, or one that is not finite.
        CoderError: the coder to go on from is not the one that is configured.
    """
    mean, variance = moments(batches.chunks(layer), layer)
    scale = scale_of(variance) if config.unit_scale else 1.0
    if start is None:
        sae = fresh(config, batches.d_model, seed.child(f"start-{layer}"))
        sae.center.copy_(mean)
    else:
        sae = given(start, config, scale)
    return LayerTraining(sae.to(device), scale, variance, config, config.penalty)
