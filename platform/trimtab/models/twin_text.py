"""The twins' tokenizers: one small byte-level BPE, dressed as each architecture's own.

What differs between families is kept: the special tokens (after the ordinary ones, as published),
whether a text begins with a BOS (Llama's do), and the style of the chat template. The templates are
written for this project and do plain turns only: no tools, no reasoning, no dates.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

NUM_ORDINARY: Final = 960
"""Most tokens that are no special ones."""


class Dress(NamedTuple):
    """What one architecture's tokenizer adds."""

    special: tuple[str, ...]
    """Special tokens, in the order of their ids."""
    bos: str | None
    """Beginning of a text; None where the tokenizer has none."""
    eos: str
    """End of a text."""
    pad: str
    """Padding."""
    adds_bos: bool
    """Whether every text begins with `bos`."""
    template: str
    """Chat template (Jinja)."""


_QWEN = Dress(
    special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    bos=None,
    eos="<|im_end|>",
    pad="<|endoftext|>",
    adds_bos=False,
    template=(
        "{% for message in messages %}"
        "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
)


def _llama(start: str, end: str, turn: str, pad: str, more: tuple[str, ...] = ()) -> Dress:
    """Both Llamas: a header in front of each turn."""
    header = f"{start}{{{{ message['role'] }}}}{end}\n\n"
    return Dress(
        special=("<|begin_of_text|>", "<|end_of_text|>", start, end, turn, *more, pad),
        bos="<|begin_of_text|>",
        eos=turn,
        pad=pad,
        adds_bos=True,
        template=(
            "{{ bos_token }}{% for message in messages %}"
            f"{header}{{{{ message['content'] | trim }}}}{turn}"
            "{% endfor %}"
            f"{{% if add_generation_prompt %}}{start}assistant{end}\n\n{{% endif %}}"
        ),
    )


_HARMONY = Dress(
    special=(
        "<|startoftext|>",
        "<|endoftext|>",
        "<|return|>",
        "<|constrain|>",
        "<|channel|>",
        "<|start|>",
        "<|end|>",
        "<|message|>",
        "<|call|>",
    ),
    bos="<|startoftext|>",
    eos="<|return|>",
    pad="<|endoftext|>",
    adds_bos=False,
    template=(
        "{% for message in messages %}"
        "<|start|>{{ message['role'] }}"
        "{% if message['role'] == 'assistant' %}<|channel|>final{% endif %}"
        "<|message|>{{ message['content'] }}<|end|>"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    ),
)
DRESSES: Final[dict[str, Dress]] = {
    "qwen3": _QWEN,
    "qwen3_moe": _QWEN,
    "llama": _llama(
        "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|finetune_right_pad_id|>"
    ),
    "llama4": _llama(
        "<|header_start|>",
        "<|header_end|>",
        "<|eot|>",
        "<|finetune_right_pad|>",
        ("<|image_start|>", "<|image_end|>", "<|image|>", "<|patch|>"),
    ),
    "gpt_oss": _HARMONY,
}
"""By architecture."""


def train_ordinary(texts: Sequence[str]) -> Tokenizer:
    """The byte-level BPE that all twins share; the same texts, the same merges."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_ORDINARY,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def dressed(ordinary: Tokenizer, architecture: str) -> PreTrainedTokenizerFast:
    """The tokenizer as one architecture's models have it."""
    dress = DRESSES[architecture]
    tokenizer = Tokenizer.from_str(ordinary.to_str())
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in dress.special])
    if dress.adds_bos and dress.bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{dress.bos} $A",
            pair=f"{dress.bos} $A {dress.bos} $B",
            special_tokens=[(dress.bos, tokenizer.token_to_id(dress.bos))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=dress.bos,
        eos_token=dress.eos,
        pad_token=dress.pad,
        chat_template=dress.template,
        clean_up_tokenization_spaces=False,
    )
