"""Coders of a steering sweep that are made where they are not there yet.

The drivers of `trimtab train` and `trimtab align` do it, so each training and alignment has its
MLflow run, is kept in a folder named by what made it, and is reused by whoever asks for the same.
In a module of its own because a trial needs none of this, and MLflow takes 2 s to import.
"""

from pathlib import Path

from trimtab.core.progress import Report
from trimtab.models.card import ModelConfig
from trimtab.stream.align import align
from trimtab.stream.moral_config import AlignJob
from trimtab.stream.steer_coders import Folders
from trimtab.stream.steer_config import SteerConfig
from trimtab.stream.train import train
from trimtab.stream.train_config import TrainJob


def made(config: SteerConfig, spec: ModelConfig, out: Path, report: Report) -> dict[int, Folders]:
    """Trains and aligns a coder for each layer that is read, where they are not there yet.

    Args:
        spec: the model, where it lies.
        out: the folder of runs.

    Raises:
        TrimtabError: something the user can mend.
    """
    coders = config.coders
    assert coders.kind == "made", "folders are there"
    job = TrainJob(
        model=spec,
        data=config.data,
        extract=coders.extract,
        workers=coders.workers,
        train=coders.train,
        seed=coders.seed,
        evaluate=coders.evaluate,
        out=out,
    )
    shared = job.model_dump(include={"model", "data", "extract", "workers", "seed", "out"})
    found: dict[int, Folders] = {}
    for layer, folder in train(job, report).coders.items():
        aligned = align(AlignJob(**shared, sae=folder, align=coders.align), report)
        found[layer] = {"aligned": str(aligned.coder), "unaligned": str(folder)}
    return found
