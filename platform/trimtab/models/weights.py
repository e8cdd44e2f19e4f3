"""What a model weighs, without one of its weights.

The model is built on the meta device from its configuration (of a multimodal one the text part)
and its parameters are counted by what a 4-bit load does with them: `nn.Linear` layers and the
fused 3-D tensors of experts are quantised; embeddings, the head, norms, routers, biases and sinks
stay as they are. Routers stay because they are no plain `nn.Linear`: bitsandbytes tests the exact
class, and `Llama4Router` is a subclass of it, the routers of qwen3_moe and gpt_oss are none.

Cost: building 235B on the meta device takes 1.5 s and 0.4 GB. METHODS 4; LOADING 1.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal, NamedTuple, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from trimtab.models.blocks import BLOCK_LISTS, EMBEDDINGS
from trimtab.models.parts import Parts, Precision, published

_BLOCK: Final = re.compile(rf"(?:^|\.)(?:{'|'.join(BLOCK_LISTS)})\.(\d+)$")


class Weights(NamedTuple):
    """A model, as far as memory and time go."""

    architecture: str
    """`model_type` of its configuration."""
    published: Precision
    """What its checkpoint is in, and its configuration computes in if that is no quantisation."""
    parts: Parts
    """All its parameters."""
    largest_block: Parts
    """Those of its largest decoder block."""
    num_layers: int
    """Decoder blocks."""
    d_model: int
    """Width of the residual stream."""
    token_embedding: int
    """Parameters of the token embedding alone."""
    largest_fused: int
    """Parameters of the largest fused expert tensor; 0 without experts."""
    active_in_blocks: int
    """Parameters of the blocks that a token needs: of experts, those it is routed to."""
    computed_in_blocks: int
    """Parameters of the blocks that a token is multiplied with. More than it needs where the
    architecture sends every token through every expert, as transformers' llama4 does."""
    width: int
    """Values per token alive at once inside a block, at most (an estimate)."""
    score_heads: int
    """Heads whose attention scores are held as a matrix; 0 if the attention does not."""

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.parts.total

    @property
    def active(self) -> int:
        """Parameters that a token needs, embedding and head among them."""
        return self.active_in_blocks + self.parts.embedding

    @property
    def flops_per_token(self) -> int:
        """Multiplications and additions of the blocks for one token; no head, no scores."""
        return 2 * self.computed_in_blocks

    def held_as(self, precision: Literal["published", "nf4"]) -> Precision:
        """What its weights are in where they are held; MXFP4 stays what it is."""
        return self.published if self.published == "mxfp4" or precision != "nf4" else "nf4"

    def activation_bytes(self, tokens: int, longest: int) -> int:
        """Most bytes of one batch inside a block, hidden states apart.

        Args:
            tokens: tokens of the batch.
            longest: most tokens of one prompt.
        """
        value = 4 if self.published == "float32" else 2
        scores = self.score_heads * longest
        softmax = 4 * scores + 6 * self.d_model * value if scores else 0  # in float32
        return tokens * (max(self.width * value, softmax) + scores * value)


def weigh(config: PretrainedConfig, dtype: str = "auto") -> Weights:
    """Builds a model on the meta device and counts it.

    Args:
        config: its configuration; a multimodal one gives the text part.
        dtype: what it will compute in; `auto` is what the configuration says.
    """
    text = config.get_text_config()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    blocks = list(_blocks(model))
    parts = [_parts(block, ()) for block in blocks]
    experts = [module for module in model.modules() if _is_experts(module)]
    fused = [p.numel() for module in experts for p in _fused(module)]
    top_k, shares = _routing(text, experts)
    ends = _ends(model)
    return Weights(
        architecture=config.model_type,
        published=published(config, dtype),
        parts=_parts(model, ends),
        largest_block=max(parts, key=lambda block: block.total),
        num_layers=len(blocks),
        d_model=text.hidden_size,
        token_embedding=ends[0].numel(),
        largest_fused=max(fused, default=0),
        active_in_blocks=sum(part.total for part in parts) - _idle(experts, top_k),
        computed_in_blocks=sum(part.total for part in parts) - _idle(experts, shares),
        width=max(_width(block, text.hidden_size, shares) for block in blocks),
        score_heads=text.num_attention_heads if _eager(model) else 0,
    )


def weigh_all(configs: Iterable[PretrainedConfig]) -> list[Weights]:
    """Like `weigh`, with equal configurations counted once."""
    known: dict[str, Weights] = {}
    found = []
    for config in configs:
        key = json.dumps(config.to_dict(), sort_keys=True, default=str)
        if key not in known:
            known[key] = weigh(config)
        found.append(known[key])
    return found


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    outer = ""
    for name, module in model.named_modules():
        if _BLOCK.search(name) and not (outer and name.startswith(outer)):
            outer = f"{name}."
            yield module


def _ends(model: Any) -> tuple[nn.Parameter, ...]:  # noqa: ANN401 (transformers' own types are loose)
    """The token embedding first, then the head if it is another parameter."""
    embedding = next(
        cast(nn.Parameter, getattr(module, name).weight)
        for module in model.modules()
        for name in EMBEDDINGS
        if isinstance(getattr(module, name, None), nn.Module)
    )
    head = model.get_output_embeddings()
    if head is None or model.config.get_text_config().tie_word_embeddings:
        return (embedding,)
    return embedding, head.weight


def _parts(module: nn.Module, ends: tuple[nn.Parameter, ...]) -> Parts:
    at_the_ends = {id(parameter) for parameter in ends}
    plain = [cast(nn.Linear, m) for m in module.modules() if type(m) is nn.Linear]
    linear = {id(m.weight): m.weight.numel() for m in plain if id(m.weight) not in at_the_ends}
    fused = [p.numel() for m in module.modules() if _is_experts(m) for p in _fused(m)]
    embedding = sum(parameter.numel() for parameter in ends)
    total = sum(parameter.numel() for parameter in module.parameters())
    known = sum(linear.values()) + sum(fused) + embedding
    return Parts(
        sum(linear.values()), sum(fused), embedding, total - known, len(linear) + len(fused)
    )


def _is_experts(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Experts")


def _fused(experts: nn.Module) -> list[nn.Parameter]:
    return [p for p in experts.parameters(recurse=False) if p.ndim == 3]


def _routing(text: Any, experts: list[nn.Module]) -> tuple[int, int]:  # noqa: ANN401
    """Experts that a token is routed to, and experts that it is sent through.

    transformers' `use_experts_implementation` marks the classes that send it to the former only.
    """
    if not experts:
        return 0, 0
    top_k = int(text.num_experts_per_tok)
    routed = all(hasattr(module, "is_transposed") for module in experts)
    return top_k, top_k if routed else _fused(experts[0])[0].shape[0]


def _idle(experts: list[nn.Module], used: int) -> int:
    """Parameters of experts that a token does not meet, biases among them."""
    return sum(
        p.numel() // p.shape[0] * (p.shape[0] - used)
        for module in experts
        for p in module.parameters(recurse=False)
    )


def _width(block: nn.Module, d_model: int, used: int) -> int:
    """Values per token while the widest part of a block runs.

    A group of linear layers (attention, MLP) holds all its outputs and one more of the widest. An
    expert holds its input, gate and up, and two products of half their width (with biases, five
    more such); at its end, its output four times over. Measured in `tests/models/test_weights.py`.
    """
    widest = 0
    for module in block.modules():
        if _is_experts(module):
            inner = sum(p.numel() // p.shape[0] // d_model for p in _fused(module)) // 3
            biased = any(p.ndim == 2 for p in module.parameters(recurse=False))
            products = d_model + (9 if biased else 4) * inner
            widest = max(widest, used * max(4 * d_model, products))
        outputs = [child.out_features for child in module.children() if type(child) is nn.Linear]
        widest = max(widest, sum(outputs) + max(outputs, default=0))
    return 3 * d_model + widest  # the residual, its norm, and the sum


def _eager(model: Any) -> bool:  # noqa: ANN401
    return model.config.get_text_config()._attn_implementation == "eager"
