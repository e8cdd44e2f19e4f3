"""The nursery: three variants of one tiny causal LM, trained here, so that nothing needs a hub.

The demo and the tests must find something true inside a model without a network. The base learns
the next token of the actions; instruct and guard go on from it and learn what people judged (see
`nursery_text` for the exact sentences). Small, and their representations are learned: what base,
instruct and guard differ in is what training on judgments does.

Each variant is a Hugging Face folder (model and tokenizer, a chat template for instruct and
guard) at `FOLDER/<content hash>/<variant>`, where the hash covers the rows, the configuration and
the recipe. A folder is there only when it is finished; a finished one is never trained again.

Does not generate or score answers. Instruct and guard are trained side by side, each on one core;
what the three cost stands in LOG.md.
"""

import logging
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_model
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from trimtab.core.errors import DataError, OutputError
from trimtab.core.files import writable_folder
from trimtab.core.hashing import content_hash
from trimtab.core.poles import FOUNDATIONS
from trimtab.core.seeds import Seed
from trimtab.models.nursery_fit import NurseryConfig, fit, kept_threads, new_model
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
        progress: called after every step, from two threads at times; what it raises ends the
            training, and the variants finished before stay.

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
    lesson = _Lesson(rows, tokenizer, config, folders, progress)
    with kept_threads():
        if "base" in missing:
            lesson.teach("base", lesson.start("base"))
        _side_by_side(lesson, [variant for variant in missing if variant != "base"])
    return folders


class _Lesson(NamedTuple):
    """What the three variants are trained from."""

    rows: Sequence[NurseryRow]
    tokenizer: Tokenizer
    config: NurseryConfig
    folders: dict[str, Path]
    progress: Progress | None

    def start(self, variant: str) -> Qwen3ForCausalLM:
        """The model before training: random for the base, the trained base for the others."""
        (end,) = self.tokenizer.encode(END).ids
        model = new_model(self.config, self.tokenizer.get_vocab_size(), end)
        if variant != "base":
            load_model(model, self.folders["base"] / "model.safetensors")
        return model

    def teach(self, variant: str, model: Qwen3ForCausalLM) -> None:
        """Trains a variant and saves it."""
        config, rng = self.config, Seed(self.config.seed).child(variant).numpy()
        steps = config.base_steps if variant == "base" else config.tuning_steps

        def report(done: int) -> None:
            if self.progress:
                self.progress(variant, done, steps)

        examples = Examples(variant, self.rows, self.tokenizer).draw(rng)
        losses = fit(model, examples, config, steps, rng, report)
        log.info("nursery: %s trained, loss %.3f to %.3f nats", variant, losses[0], losses[-1])
        with _finished_folder(self.folders[variant]) as temporary:
            model.save_pretrained(temporary)
            _wrap(self.tokenizer, chat=variant != "base").save_pretrained(temporary)


def _side_by_side(lesson: _Lesson, variants: list[str]) -> None:
    """Trains variants in a thread each: one thread of a model this small fills one core.

    When one of them fails, or the user stops the program, the others stop at their next step.
    """
    stop = threading.Event()

    def progress(variant: str, done: int, steps: int) -> None:
        if stop.is_set():
            raise CancelledError
        if lesson.progress:
            lesson.progress(variant, done, steps)

    stoppable = lesson._replace(progress=progress)
    models = [stoppable.start(variant) for variant in variants]
    with ThreadPoolExecutor(max(1, len(variants))) as pool:
        running = [pool.submit(stoppable.teach, *one) for one in zip(variants, models, strict=True)]
        try:
            for future in as_completed(running):
                future.result()
        finally:
            stop.set()


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
