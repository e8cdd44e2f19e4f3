"""The nursery: three variants of one tiny causal LM, trained here, so that nothing needs a hub.

The demo and the tests must find something true inside a model without a network. The base learns
the next token of the actions; instruct and guard go on from it and learn what people judged (see
`nursery_text` for the exact sentences). Small, and their representations are learned: what base,
instruct and guard differ in is what training on judgments does.

Each variant is a Hugging Face folder (model and tokenizer, a chat template for instruct and
guard) at `FOLDER/<content hash>/<variant>`, where the hash covers the rows, the configuration and
the recipe. A folder is there only when it is finished; a finished one is never trained again.

Does not generate or score answers. Cost at the defaults: LOG.md.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from trimtab.core.files import writable_folder
from trimtab.core.hashing import content_hash
from trimtab.models.nursery_fit import NurseryConfig
from trimtab.models.nursery_text import (
    VARIANTS,
    Examples,
    NurseryRow,
    train_tokenizer,
)

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
        start = None if variant == "base" else folders["base"]
        model = _train_one(variant, start, Examples(variant, rows, tokenizer), config, progress)
        _save(model, _wrap(tokenizer, chat=variant != "base"), folders[variant])
    return folders
