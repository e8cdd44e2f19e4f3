"""What a steering trial is told: one layer, and the arms that share its batches."""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import (
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from trimtab.core.arms import ArmKind
from trimtab.core.config import Config
from trimtab.edits.align_config import AlignConfig
from trimtab.edits.arms import BASELINE
from trimtab.evaluation.decoding import DecodingConfig
from trimtab.evaluation.judged import EvaluationConfig
from trimtab.evaluation.judges.build import JudgeConfig
from trimtab.models.card import ModelConfig
from trimtab.sae.config import TrainConfig
from trimtab.stream.config import CORPUS, DataConfig, ExtractConfig, Split, WorkerConfig
from trimtab.stream.train_config import AllRows, EvaluateConfig

LAYER: Final = "{layer}"
"""Where a layer's number goes in the path of a coder's folder."""

NEEDS_UNALIGNED: Final[tuple[ArmKind, ...]] = ("unaligned", "delta", "random_latents")
"""Arms that cannot be made from the aligned coder alone."""
NEEDS_POLES: Final[tuple[ArmKind, ...]] = ("latent_direction", "difference_of_means")
"""Arms that are made from how the model sees virtues and vices."""


class NurseryPrompts(Config):
    """Questions about actions of the packaged corpus, with what people judged as the reference."""

    kind: Literal["nursery"] = "nursery"
    """Which prompts."""
    split: Split = "test"
    """Of the corpus. The nursery learns from `train`, an alignment chooses on `validation`."""


class FilePrompts(Config):
    """A file of one's own, one JSON object a line: `id`, `prompt`, perhaps `reference`."""

    kind: Literal["jsonl"]
    """Which prompts."""
    path: Path
    """The file."""
    sensitive: bool = True
    """Whether its texts stay off the tracking server."""


class FlamesPrompts(Config):
    """The 1,000 public prompts of Flames, which are sensitive."""

    kind: Literal["flames"]
    """Which prompts."""
    path: Path | None = None
    """The released file; null fetches it."""


Prompts = Annotated[NurseryPrompts | FilePrompts | FlamesPrompts, Field(discriminator="kind")]


class MadeCoders(Config):
    """Autoencoders that are trained and aligned before the first trial, unless they are there."""

    kind: Literal["made"]
    """Where coders come from."""
    extract: ExtractConfig = Field(default_factory=ExtractConfig)
    """What is read of the model; every layer of it gets a coder."""
    workers: WorkerConfig = Field(default_factory=WorkerConfig)
    """What reads it."""
    train: TrainConfig
    """How each is trained."""
    align: AlignConfig = Field(default_factory=AlignConfig)
    """How each is aligned."""
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    """What a trained one is measured on."""
    seed: NonNegativeInt = 0
    """Seed of training and alignment."""


class CoderFolders(Config):
    """Autoencoders that are there: folders of trimtab, SAELens or sparsify."""

    kind: Literal["folders"]
    """Where coders come from."""
    aligned: str
    """The aligned coder's folder, with `{layer}` in the place of the layer's number. A `*` stands
    for what differs by layer and is not known, if one folder fits:
    `runs/aligned/Qwen3-8B-L{layer}-*/coder`."""
    unaligned: str = ""
    """The same before alignment; empty where there is none, and no arm needs it."""

    @field_validator("aligned", "unaligned")
    @classmethod
    def _names_a_layer(cls, path: str) -> str:
        if path and LAYER not in path:
            raise ValueError(f"must have {LAYER} in the place of the layer's number")
        return path


Coders = Annotated[MadeCoders | CoderFolders, Field(discriminator="kind")]


class SteerConfig(Config):
    """One layer of a model steered at several strengths, beside its controls."""

    model: ModelConfig
    """Who answers."""
    data: AllRows = Field(default_factory=AllRows)
    """Scenarios: what coders are made from and means taken of. With nursery questions it is the
    packaged corpus."""
    prompts: Prompts
    """What is asked."""
    coders: Coders
    """What is blended in."""
    layer: NonNegativeInt
    """The block whose output is edited, counted from 0."""
    alphas: tuple[FiniteFloat, ...] = Field(min_length=1)
    """Strengths, each of which is an arm of each kind: 0 changes nothing, 1 puts the
    reconstruction in the place of what was there."""
    arms: tuple[ArmKind, ...] = ("aligned", "unaligned", "random_latents", "random_direction")
    """Kinds of arms. `aligned` is what the sweep is about, the others are its controls; the
    unedited model is always there."""
    decoding: DecodingConfig = Field(default_factory=DecodingConfig)
    """How answers are decoded, in every arm alike."""
    judge: JudgeConfig
    """Who compares each answer with the unedited model's."""
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    """How answers are scored and compared; `log_text` lets sensitive texts reach the tracker."""
    rungs: tuple[PositiveInt, ...] = Field(min_length=1)
    """Prompts after which a trial reports, and may be stopped: ascending, the last is all."""
    rows: PositiveInt = 64
    """Most answers that are decoded side by side."""
    seed: NonNegativeInt = 0
    """Seed of the prompts drawn, of their halves and of the controls."""

    @field_validator("alphas")
    @classmethod
    def _different_strengths(cls, alphas: tuple[float, ...]) -> tuple[float, ...]:
        if 0 in alphas or len(set(alphas)) < len(alphas):
            raise ValueError("must differ from each other and from 0, which is the unedited model")
        return alphas

    @field_validator("rungs")
    @classmethod
    def _ascending(cls, rungs: tuple[int, ...]) -> tuple[int, ...]:
        if list(rungs) != sorted(set(rungs)) or rungs[0] < 2:
            raise ValueError("must ascend, from at least 2: one prompt for each half")
        return rungs

    @field_validator("evaluation")
    @classmethod
    def _compares_with_the_baseline(cls, evaluation: EvaluationConfig) -> EvaluationConfig:
        if evaluation.pairwise is None or evaluation.baseline != BASELINE.name:
            raise ValueError(f"must compare each arm with `{BASELINE.name}`, the unedited model")
        return evaluation

    @model_validator(mode="after")
    def _arms_can_be_made(self) -> "SteerConfig":
        if "aligned" not in self.arms or len(set(self.arms)) < len(self.arms):
            raise ValueError(f"`arms` must have `aligned`, and each once, but is {self.arms}")
        if self.coders.kind == "folders" and not self.coders.unaligned:
            needing = [arm for arm in self.arms if arm in NEEDS_UNALIGNED]
            if needing:
                raise ValueError(
                    f"the arms {', '.join(needing)} need `coders.unaligned`, which is not given"
                )
        return self

    @model_validator(mode="after")
    def _questions_are_unseen(self) -> "SteerConfig":
        check_data(self.prompts, self.data)
        return self

    @property
    def is_sensitive(self) -> bool:
        """Whether texts must not reach the tracking server."""
        return are_sensitive(self.prompts, self.evaluation)


def check_data(prompts: Prompts, data: DataConfig) -> None:
    """Refuses nursery questions beside other scenarios, which may hold the actions asked about.

    Raises:
        ValueError: names the path.
    """
    if prompts.kind == "nursery" and data.path != CORPUS:
        raise ValueError(
            "nursery questions are about actions of the packaged corpus that nothing was trained "
            f"on, so `data.path` must be `{CORPUS}`, but is {data.path}; leave it out, or ask "
            "about your own with prompts of kind `jsonl`"
        )


def are_sensitive(prompts: Prompts, evaluation: EvaluationConfig) -> bool:
    """Whether prompts and the answers to them must not reach the tracking server."""
    if evaluation.log_text or prompts.kind == "nursery":
        return False
    return prompts.kind == "flames" or prompts.sensitive
