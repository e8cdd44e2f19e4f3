"""Texts to prompts: tokenised as they are, checked against the length limit, each text once.

Raw text and no chat template for every model, instruct and guard models too (METHODS 1.3).
"""

import hashlib
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from trimtab.core.errors import DataError
from trimtab.core.hashing import SHORT
from trimtab.models.engine import Prompt


def tokenise(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    names: Sequence[str],
    max_tokens: int,
) -> list[Prompt]:
    """Tokenises texts with whatever special tokens the tokenizer adds by itself.

    Args:
        texts: the prompts.
        names: what an error calls each of them.
        max_tokens: the length limit; nothing is ever cut off in silence.

    Raises:
        DataError: a text is over the limit or has no token at all.
    """
    encoded = tokenizer(list(texts), add_special_tokens=True)["input_ids"]
    for ids, name in zip(encoded, names, strict=True):
        if not 0 < len(ids) <= max_tokens:
            raise DataError(
                f"A prompt must have 1 to {max_tokens} tokens, but scenario {name} has {len(ids)}. "
                "Shorten or remove it, or raise `max_tokens`."
            )
    return [Prompt(ids, name) for ids, name in zip(encoded, names, strict=True)]


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer begins a text with its BOS token (Llama does, Qwen does not)."""
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Content hash of what turns a text into ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else str(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()[:SHORT]
