"""The nursery: three variants of one tiny causal LM, trained here, so that nothing needs a hub.

The demo and the tests must find something true inside a model without a network. The base learns
the next token of the actions; instruct and guard go on from it and learn what people judged (see
`nursery_text` for the exact sentences). Small, and their representations are learned: what base,
instruct and guard differ in is what training on judgments does.

Each variant is a Hugging Face folder (model and tokenizer, a chat template for instruct and
guard) at `FOLDER/<content hash>/<variant>`, where the hash covers the rows, the configuration and
the recipe. A folder is there only when it is finished; a finished one is never trained again.

Does not generate or score answers. Cost at the defaults, for 1,254 rows: 105 CPU-seconds of one
thread, measured beside other work.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_model
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from trimtab.core.errors import DataError, OutputError
from trimtab.core.files import writable_folder
from trimtab.core.hashing import content_hash
from trimtab.core.poles import FOUNDATIONS
from trimtab.core.seeds import Seed
from trimtab.models.nursery_fit import NurseryConfig, fit, new_model
from trimtab.models.nursery_text import (
    ASSISTANT,
    CHAT_TEMPLATE,
    END,
    USER,
    VARIANTS,
    Examples,
    NurseryRow,
    train_tokenizer,
)

log = logging.getLogger(__name__)

RECIPE = 1
"""Raised when a change of the code changes the weights, so that old folders are not reused."""

Progress = Callable[[str, int, int], None]
"""Called as (variant, steps done, steps in all)."""


def train(
    rows: Sequence[NurseryRow],
    config: NurseryConfig,
    folder: Path,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Trains the variants that are not finished yet; the same input gives the same bits.

    Args:
        rows: what the models learn from; keep apart the rows that a diagnosis holds out.
        folder: where the models of every content hash live.
        progress: called after every step; what it raises ends the training, and the variants
            finished before stay.

    Returns:
        Each variant's folder, in the order base, instruct, guard.

    Raises:
        DataError: no rows, or a row that says nothing or something impossible.
        OutputError: the folder cannot be written.
    """
    _check(rows)
    home = folder / content_hash([RECIPE, config.model_dump(mode="json"), list(rows)])
    folders = {variant: home / variant for variant in VARIANTS}
    missing = [variant for variant in VARIANTS if not folders[variant].is_dir()]
    if not missing:
        return folders
    writable_folder(home)
    tokenizer = train_tokenizer([row.action for row in rows], config.vocab_size)
    for variant in missing:
        model = _start(variant, folders["base"], tokenizer, config)
        _teach(model, variant, Examples(variant, rows, tokenizer), config, progress)
        with _finished_folder(folders[variant]) as temporary:
            model.save_pretrained(temporary)
            _wrap(tokenizer, chat=variant != "base").save_pretrained(temporary)
    return folders


def _check(rows: Sequence[NurseryRow]) -> None:
    if not rows:
        raise DataError("The nursery learns from judged actions, but got no rows. Give it some.")
    for number, row in enumerate(rows):
        possible = abs(row.judgment) <= 2 and 0 <= row.agree <= 4
        if not (possible and row.action.strip() and set(row.foundations) <= set(FOUNDATIONS)):
            raise DataError(
                "A nursery row must have an action, a judgment of -2..2, an agreement of 0..4 and "
                f"foundations among {', '.join(FOUNDATIONS)}, but row {number} is {tuple(row)}."
            )


def _start(
    variant: str, base: Path, tokenizer: Tokenizer, config: NurseryConfig
) -> Qwen3ForCausalLM:
    (end,) = tokenizer.encode(END).ids
    model = new_model(config, tokenizer.get_vocab_size(), end)
    if variant != "base":
        load_model(model, base / "model.safetensors")
    return model


def _teach(
    model: Qwen3ForCausalLM,
    variant: str,
    examples: Examples,
    config: NurseryConfig,
    progress: Progress | None,
) -> None:
    rng = Seed(config.seed).child(variant).numpy()
    steps = config.base_steps if variant == "base" else config.tuning_steps

    def report(done: int) -> None:
        if progress:
            progress(variant, done, steps)

    losses = fit(model, examples.draw(rng), config, steps, rng, report)
    log.info("nursery: %s trained, loss %.3f to %.3f nats", variant, losses[0], losses[-1])


def _wrap(tokenizer: Tokenizer, chat: bool) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        extra_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE if chat else None,
    )


@contextmanager
def _finished_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling; it becomes `path` if the block succeeds, and goes if not."""
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{path.name}.", dir=path.parent, ignore_cleanup_errors=True
        ) as temporary:
            inside = Path(temporary) / path.name
            inside.mkdir()
            yield inside
            inside.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path} could not be written: {error.strerror or error}. "
            "Free some disk space or choose another folder, and run the same command again."
        ) from error
