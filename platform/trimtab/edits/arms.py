"""Arms: which change a row of a batch carries, in words, and what the words refer to.

    none        x                                   the baseline is an arm
    blend       x + alpha (SAE'(x - c) + c - x)     toward a coder's reconstruction
    delta       x + alpha (SAE'(x) - SAE(x))        one coder against another (aligned, unaligned)
    direction   x + alpha v                         a decoder row, or a difference of means
    noise       x + alpha |SAE'(x) - x| v / |v|     as long as the blend at that position, along v

x is the residual stream after block `layer`, at every position, prompt and generated alike. An arm
names its coders and its direction; `Materials` holds them, so that arms are plain configuration
and one coder serves all alphas of a layer. How a model is made to carry arms is `edits.steering`;
the controls (random latents, random directions) are made in `edits.controls`.

Li, Teng and Wang 2026, arXiv 2603.15615 (blend); METHODS 1.8.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from pydantic import Field, FiniteFloat, NonNegativeInt, model_validator
from torch import Tensor

from trimtab.core.config import Config
from trimtab.core.errors import CoderError, ConfigError
from trimtab.core.hashing import SHORT, content_hash
from trimtab.sae.coder import Sae

Found = TypeVar("Found")
Kind = Literal["none", "blend", "delta", "direction", "noise"]
USES: Final[dict[str, tuple[str, ...]]] = {
    "none": (),
    "blend": ("coder",),
    "delta": ("coder", "against"),
    "direction": ("direction",),
    "noise": ("coder", "direction"),
}
"""Which names an arm of each kind gives."""


class Arm(Config):
    """One change of a model, or none."""

    name: str = Field(min_length=1)
    """What tables and answers call it."""
    kind: Kind = "none"
    """The formula."""
    layer: NonNegativeInt | None = None
    """Block whose output is changed, counted from 0; none for `none`."""
    alpha: FiniteFloat = 0.0
    """Strength: 0 changes nothing, 1 replaces x by a blend's reconstruction."""
    coder: str = ""
    """Name of the coder, for `blend`, `delta` and `noise`."""
    against: str = ""
    """Name of the coder that `delta` subtracts."""
    direction: str = ""
    """Name of the direction, for `direction` and `noise`."""

    @model_validator(mode="after")
    def _says_what_its_kind_uses(self) -> "Arm":
        for name in ("coder", "against", "direction"):
            if bool(getattr(self, name)) != (name in USES[self.kind]):
                verb = "must" if name in USES[self.kind] else "must not"
                raise ValueError(
                    f"arm {self.name!r} of kind `{self.kind}` {verb} name a `{name}`, but it "
                    f"says {getattr(self, name)!r}"
                )
        if (self.layer is None) != (self.kind == "none"):
            verb = "has no" if self.kind == "none" else "needs a"
            raise ValueError(f"arm {self.name!r} of kind `{self.kind}` {verb} `layer`")
        return self

    @property
    def coders(self) -> tuple[str, ...]:
        """Names of the coders that it uses."""
        return tuple(name for name in (self.coder, self.against) if name)


BASELINE: Final = Arm(name="baseline")
"""The unedited model."""


class Coder(NamedTuple):
    """A coder and where it belongs."""

    sae: Sae
    """On the device and in the dtype that it computes in."""
    model: str = ""
    """The model whose activations it was trained on; empty where it is not known."""
    layer: int | None = None
    """The layer that they were read at; None where it is not known."""


@dataclass(frozen=True, eq=False)
class Materials:
    """What arms refer to by name."""

    coders: Mapping[str, Coder] = field(default_factory=dict)
    """Sparse autoencoders."""
    directions: Mapping[str, Float[Tensor, " d_model"]] = field(default_factory=dict)
    """Vectors of the residual stream, of the length that alpha 1 adds."""

    def to(self, device: torch.device, dtype: torch.dtype) -> "Materials":
        """Copies that compute there; the originals stay as they are."""
        return Materials(
            {
                name: coder._replace(sae=_moved(coder.sae, device, dtype))
                for name, coder in self.coders.items()
            },
            {name: v.to(device=device, dtype=dtype) for name, v in self.directions.items()},
        )

    @property
    def size(self) -> int:
        """Numbers that all of it holds."""
        coders = [tensor for coder in self.coders.values() for tensor in _tensors(coder.sae)]
        return sum(tensor.numel() for tensor in (*coders, *self.directions.values()))

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Content hash of each coder and direction, by name; about 1 GB/s, once."""
        coders = {
            f"coder/{name}": content_hash(
                [coder.sae.config.model_dump(mode="json"), *map(_digest, _tensors(coder.sae))]
            )
            for name, coder in self.coders.items()
        }
        return coders | {f"direction/{name}": _digest(v) for name, v in self.directions.items()}

    def identity(self, arm: Arm) -> str:
        """Content hash of all that makes an arm's change, apart from its name and the model."""
        named = [f"coder/{name}" for name in arm.coders]
        named += [f"direction/{arm.direction}"] if arm.direction else []
        said = [arm.kind, arm.layer, arm.alpha]
        return content_hash([*said, *(self.hashes[name] for name in named)])

    def check(self, arm: Arm, num_layers: int, d_model: int, model: str = "") -> None:
        """Refuses an arm that a model cannot carry.

        Args:
            num_layers: of the model.
            d_model: of the model.
            model: what the coders call it; empty does not look.

        Raises:
            ConfigError: a layer that the model does not have, or a name that is not here.
            CoderError: a coder or direction of another width, model or layer.
        """
        if arm.layer is None:
            return
        if arm.layer >= num_layers:
            raise ConfigError(
                f"`0 <= layer < num_layers` must hold, but arm {arm.name!r} has "
                f"(layer={arm.layer}, {num_layers=}){_of(model)}. Layers count from 0; the last one "
                f"is {num_layers - 1}."
            )
        for name in arm.coders:
            self._check_coder(arm, name, d_model, model)
        if arm.direction:
            direction = self._found(self.directions, arm.direction, arm, "direction")
            _check_width(f"The direction {arm.direction!r}", len(direction), arm, d_model, model)
            if not 0 < float(direction.norm()) < math.inf:
                raise CoderError(
                    f"A direction must be finite and not zero, but {arm.direction!r} of arm "
                    f"{arm.name!r} has length {float(direction.norm())}."
                )

    def _check_coder(self, arm: Arm, name: str, d_model: int, model: str) -> None:
        coder = self._found(self.coders, name, arm, "coder")
        whose = f"The coder {name!r}" + (f" of {coder.model}" if coder.model else "")
        if model and coder.model and coder.model != model:
            raise CoderError(
                f"{whose} was trained on another model than arm {arm.name!r} puts it on, {model}. "
                f"Use a coder that was trained on {model}."
            )
        _check_width(whose, coder.sae.d_model, arm, d_model, model)
        if coder.layer is not None and coder.layer != arm.layer:
            raise CoderError(
                f"{whose} was trained at layer {coder.layer}, but arm {arm.name!r} puts it at layer "
                f"{arm.layer}. Use the coder of that layer."
            )

    def _found(self, kept: Mapping[str, Found], name: str, arm: Arm, what: str) -> Found:
        if name not in kept:
            raise ConfigError(
                f"Arm {arm.name!r} names the {what} {name!r}, but there is none of this name; "
                f"known: {', '.join(kept) or 'none'}."
            )
        return kept[name]


def _check_width(what: str, width: int, arm: Arm, d_model: int, model: str) -> None:
    if width != d_model:
        raise CoderError(
            f"{what} is of d_model={width}, but the model{_of(model)} that arm {arm.name!r} puts it "
            f"on has d_model={d_model}. It belongs to another model."
        )


def _of(model: str) -> str:
    return f" of {model}" if model else ""


def _tensors(sae: Sae) -> Iterator[Tensor]:
    yield from sae.state_dict().values()


def _digest(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.sha256(data.data).hexdigest()[:SHORT]


def _moved(sae: Sae, device: torch.device, dtype: torch.dtype) -> Sae:
    moved = Sae(sae.config, sae.d_model).to(device=device, dtype=dtype)
    moved.load_state_dict(sae.state_dict())
    return moved.requires_grad_(requires_grad=False)
