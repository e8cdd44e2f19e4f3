"""What makes a long run resumable at a layer boundary: a folder, and what is written there when.

After each block the pooled rows of that layer; after each, or each few, the hidden states (see
`states`), and last the progress file, which names the layer and the identity of what is being run. A restart of the same
prompts, request and model takes up the next layer, and reads none of the earlier blocks. Another
identity starts over. When the deepest layer is done the states are deleted; the pooled rows stay,
so that asking again costs nothing, until the folder is deleted by whoever named it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trimtab.core.config import Config
from trimtab.core.files import finished_file, writable_folder, write_json
from trimtab.models.states import StateFiles, state_paths

Rows = dict[str, Float[Tensor, "prompts d_model"]]
"""Pooled rows of a layer, by pooling."""


class Resume(NamedTuple):
    """Where a run keeps itself, and what is run."""

    folder: Path
    """For this run alone; its states take twice the bytes of all hidden states."""
    model: str
    """All that tells one model from another here: its revision, dtype, precision, threads."""
    every: int = 1
    """Blocks between two savings of the hidden states: what a restart repeats at most. Saving after
    each block of a large model would write more than its weights."""


class Progress(Config):
    """How far a run came."""

    identity: str
    """Content hash of model, prompts and request."""
    token_budget: int
    """The budget that fitted; another one gives other batches."""
    layer: int
    """The last one that can be gone on from."""
    states: int
    """Which of the two files holds the states after it."""


class Journal:
    """A run's folder."""

    def __init__(self, folder: Path, identity: str, every: int = 1) -> None:
        """Opens the folder.

        Args:
            folder: the run's.
            identity: content hash of what is run.
            every: blocks between two savings of the hidden states.

        Raises:
            OutputError: it cannot be made or written.
        """
        self.folder, self.identity, self.every = writable_folder(folder), identity, every

    def progress(self) -> Progress | None:
        """How far this very run came earlier, if it did."""
        try:
            found = Progress.model_validate_json(self._progress.read_text("utf-8"))
        except (FileNotFoundError, ValidationError):
            return None
        return found if found.identity == self.identity else None

    def begin(self, token_budget: int) -> int:
        """The first layer that is not done yet; forgets a run of another identity or budget."""
        found = self.progress()
        if found is not None and found.token_budget == token_budget:
            return found.layer + 1
        self._progress.unlink(missing_ok=True)
        return 0

    def open_states(self, shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype) -> StateFiles:
        """The hidden states on the disk."""
        return StateFiles(self.folder, shapes, dtype)

    def keep(self, layer: int, rows: Rows) -> None:
        """Writes the pooled rows of a layer.

        Raises:
            OutputError: the disk is full, or cannot be written.
        """
        if rows:
            with finished_file(self._pooled(layer)) as temporary:
                save_file(rows, temporary)

    def reach(self, layer: int, token_budget: int, states: int) -> None:
        """A run can be gone on from after this layer: its states and rows are there.

        Raises:
            OutputError: the disk is full, or cannot be written.
        """
        progress = Progress(
            identity=self.identity, token_budget=token_budget, layer=layer, states=states
        )
        write_json(self._progress, progress.model_dump())

    def rows(self, layers: Sequence[int]) -> Mapping[int, Rows]:
        """The pooled rows of layers that are done."""
        return {layer: load_file(self._pooled(layer)) for layer in layers}

    def forget_states(self) -> None:
        """Deletes the hidden states of a run that is done."""
        for path in state_paths(self.folder):
            path.unlink(missing_ok=True)

    @property
    def _progress(self) -> Path:
        return self.folder / "progress.json"

    def _pooled(self, layer: int) -> Path:
        return self.folder / f"pooled-{layer:03}.safetensors"
