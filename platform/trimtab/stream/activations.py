"""A model's stored activations together with what is known about each row.

What `train`, `locate`, `align` and a sweep begin with: the store is extracted where it is not
there yet, so that whatever is trained or measured afterwards reads it and never the model.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from trimtab.core.files import writable_folder
from trimtab.core.hashing import content_hash
from trimtab.core.progress import Report
from trimtab.core.rows import Labels
from trimtab.models.card import ModelCard, ModelConfig
from trimtab.scenarios.labels import labels
from trimtab.store.reader import ActivationStore, open_store
from trimtab.stream.config import ExtractJob
from trimtab.stream.machine import known_machine
from trimtab.stream.scenarios import Scenarios, data_identity, read
from trimtab.stream.session import ray_session
from trimtab.stream.tasks import fill_store, resolved, task, writer_of


class Activations(NamedTuple):
    """A finished store and its scenarios."""

    store: ActivationStore
    """Memory-mapped; `trimtab.sae.rows.stored_rows` joins its shards."""
    labels: Labels
    """One per scenario, in the table's order."""
    scenarios: Scenarios
    """The table itself, with ids and actions, and how it was made."""
    card: ModelCard
    """The model."""
    folder: Path
    """The model's own folder (or hub id as a path): a nursery model resolved to where it lies."""
    data_hash: str
    """Content hash of the rows and how they are asked."""

    @property
    def identity(self) -> str:
        """Content hash of all that decides a row and its labels."""
        return content_hash([self.store.manifest.identity, self.data_hash])


def activations(spec: ModelConfig, job: ExtractJob, report: Report) -> Activations:
    """The activations of a model, extracted where they are not there yet.

    Args:
        spec: the model; `nursery:VARIANT` and `twin:ID` are made first.
        job: scenarios, layers and pooling.
        report: told about progress.

    Raises:
        TrimtabError: something the user can mend.
    """
    job = job.model_copy(update={"out": writable_folder(job.out).resolve()})
    scenarios = read(job.data, job.out)
    with known_machine() as machine:
        (found,) = resolved((spec,), job, report)
        todo = task(found, scenarios, job, machine)
        with nullcontext() if writer_of(todo, job).finished else ray_session():
            path, _ = fill_store(todo, scenarios, job, report)
    return Activations(
        store=open_store(path),
        labels=labels(scenarios.table),
        scenarios=scenarios,
        card=todo.card,
        folder=Path(found.id),
        data_hash=data_identity(scenarios, job.data),
    )
