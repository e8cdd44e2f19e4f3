"""What a diagnosis, or an extraction by itself, is told: the records behind `sweeps/diagnose-*.yaml`."""

from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from trimtab.core.config import Config, JobConfig
from trimtab.core.rows import SPLITS
from trimtab.models.card import ModelConfig
from trimtab.scenarios.prepare import Fractions, SplitSeed
from trimtab.scenarios.prompts import PROMPT
from trimtab.scenarios.subset import SubsetConfig

CORPUS: Final = "corpus"
"""What `data.path` says for the packaged corpus."""
NURSERY: Final = "nursery:"
"""Prefix of a model id that the nursery trains: `nursery:base`."""
TWIN: Final = "twin:"
"""Prefix of a registry id whose random twin is meant: `twin:Qwen/Qwen3-8B`."""

MeasureName = Literal["categorical", "gradient", "structural", "dimensional"]
Split = Literal["train", "validation", "test"]


class DataConfig(Config):
    """Which scenarios, and how they are split and asked."""

    path: str = CORPUS
    """`corpus` (the packaged one), a Social-Chemistry-101 TSV, or a folder that `trimtab prepare`
    made (its own split then holds)."""
    split: Literal["position", "action"] = "position"
    """What is shuffled: row positions as published, or distinct action texts (no leak)."""
    fractions: Fractions = (0.8, 0.1)
    """Of the actions, in training and in validation; the rest is for testing."""
    seed: SplitSeed = 42
    """Seed of the split."""
    subset: SubsetConfig | None = Field(default_factory=SubsetConfig)
    """The diagnosis subset; null takes every row."""
    prompt: str = PROMPT
    """Template around `{action}`."""


class ExtractConfig(Config):
    """What is read of a model, and how the work is cut."""

    layers: Literal["all"] | tuple[int, ...] = "all"
    """Layers to read, ascending, counted from 0."""
    pooling: Literal["mean", "last"] = "mean"
    """One vector per prompt: mean over its tokens, or its last token."""
    skip_bos: bool = False
    """Leave the BOS token out of the mean, where the tokenizer adds one."""
    max_tokens: PositiveInt = 128
    """Longest prompt, in tokens; a longer one is an error."""
    token_budget: PositiveInt = 16_384
    """Most tokens in one batch; about 1,024 is best on a CPU."""
    block_prompts: PositiveInt = 2_048
    """Distinct prompts in one block: the unit of work, of retrying and of resuming. Where weights
    stream, one call takes as many blocks as the plan has memory for."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What pooled rows are kept in."""


class MeasureConfig(Config):
    """Which measures, on which rows."""

    which: tuple[MeasureName, ...] = ("categorical", "gradient", "structural", "dimensional")
    """Measures to compute."""
    splits: tuple[Split, ...] = SPLITS
    """Splits whose rows the first three are computed on. The readout always fits on train,
    chooses on validation and is scored on test."""
    min_cluster_size: PositiveInt = 100
    """HDBSCAN: fewest rows of a cluster. Small subsets need less."""
    min_samples: PositiveInt = 20
    """HDBSCAN: neighbours that make a point dense, itself not counted."""
    variance: PositiveFloat = Field(default=0.95, lt=1)
    """Share of the variance that the components kept for clustering explain."""


class WorkerConfig(Config):
    """What each worker gets; GPUs per worker stand with each model."""

    replicas: PositiveInt | None = None
    """Copies of the model that work side by side; the default is what the plan says."""
    num_cpus: PositiveFloat = 1.0
    """CPUs that Ray reserves for each of them."""
    threads: PositiveInt = 1
    """Compute threads of each of them (float rounding may depend on it, so it is part of a plan)."""
    memory_gb: PositiveFloat = 8.0
    """Memory of one fold worker, in GB; layers are processed in groups that fit."""


class ExtractJob(Config):
    """Everything that decides activations."""

    data: DataConfig = Field(default_factory=DataConfig)
    """The scenarios."""
    extract: ExtractConfig = Field(default_factory=ExtractConfig)
    """What is read of each model."""
    workers: WorkerConfig = Field(default_factory=WorkerConfig)
    """What it runs on."""
    out: Path = Path("runs")
    """Where everything is written: scenarios, stores, results, figures, `mlflow.db`. On a cluster,
    a folder that all nodes share."""


class DiagnoseConfig(ExtractJob, JobConfig):
    """A diagnosis of one or more models."""

    JOB: ClassVar[str] = "diagnose"

    asks: str
    """The question that this file answers, in one sentence."""
    models: tuple[ModelConfig, ...] = Field(min_length=1)
    """Models, one after another."""
    measures: MeasureConfig = Field(default_factory=MeasureConfig)
    """What is measured."""
    store: bool = True
    """Keep the activations and read every measure off them; false holds no row on disk and runs
    the model a second time for the measures that need it."""
    as_released: bool = False
    """Reproduce the released scripts' choices where the default corrects them: the subset's draw,
    centres that contain the rows they score, the readout trained by AdamW on random rows."""
    tracking_uri: str | None = None
    """MLflow store; the default is MLFLOW_TRACKING_URI, else `mlflow.db` in `out`."""

    @model_validator(mode="after")
    def _names_differ(self) -> "DiagnoseConfig":
        labels = [model.label for model in self.models]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(
                f"models must have different names, but {twice} occur twice; set `name` "
                "(`--model NAME=ID`)"
            )
        return self
