"""What `trimtab evaluate` is told: whom to ask what, with which edit, and who judges."""

from pathlib import Path

from pydantic import (
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from trimtab.core.config import Config
from trimtab.edits.arms import BASELINE
from trimtab.evaluation.judged import EvaluationConfig
from trimtab.evaluation.judges.build import JudgeConfig
from trimtab.models.card import ModelConfig
from trimtab.stream.answers import AnswerConfig
from trimtab.stream.steer_config import Prompts, are_sensitive, check_data
from trimtab.stream.train_config import AllRows


class EditConfig(Config):
    """A blend toward a coder's reconstruction, at one or more strengths."""

    sae: Path
    """The autoencoder's own folder: ours, SAELens' or sparsify's."""
    layer: NonNegativeInt | None = None
    """The block whose output is edited, counted from 0; null asks the coder's folder."""
    alphas: tuple[FiniteFloat, ...] = Field(default=(0.1,), min_length=1)
    """Strengths, each of which is an arm: 1 puts the reconstruction in the place of what was
    there."""

    @field_validator("alphas")
    @classmethod
    def _different_strengths(cls, alphas: tuple[float, ...]) -> tuple[float, ...]:
        if 0 in alphas or len(set(alphas)) < len(alphas):
            raise ValueError("must differ from each other and from 0, which is the unedited model")
        return alphas


class EvaluateJob(Config):
    """Everything that decides an evaluation."""

    model: ModelConfig
    """Who answers."""
    data: AllRows = Field(default_factory=AllRows)
    """How the packaged corpus is split, for nursery models and nursery questions."""
    prompts: Prompts
    """What is asked."""
    limit: PositiveInt | None = None
    """Only so many prompts, the first ones; null asks all."""
    edit: EditConfig | None = None
    """What is blended in; null asks the unedited model alone, which is always an arm."""
    answers: AnswerConfig = Field(default_factory=AnswerConfig)
    """How answers are decoded, in every arm alike, and on what."""
    judge: JudgeConfig
    """Who judges."""
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    """How answers are scored and compared; `log_text` lets sensitive texts reach the tracker."""
    seed: NonNegativeInt = 0
    """Seed of the bootstraps."""
    out: Path = Path("runs")
    """The folder of runs."""
    tracking_uri: str | None = None
    """MLflow store; the default is MLFLOW_TRACKING_URI, else `mlflow.db` in `out`."""

    @model_validator(mode="after")
    def _something_is_judged(self) -> "EvaluateJob":
        evaluation = self.evaluation
        if not evaluation.aspects and (self.edit is None or evaluation.pairwise is None):
            raise ValueError(
                "without `evaluation.aspects` and without an edit to compare there is nothing to "
                "judge; give one of them"
            )
        if evaluation.baseline != BASELINE.name:
            raise ValueError(f"`evaluation.baseline` must be `{BASELINE.name}`, the unedited model")
        return self

    @model_validator(mode="after")
    def _questions_are_unseen(self) -> "EvaluateJob":
        check_data(self.prompts, self.data)
        return self

    @property
    def is_sensitive(self) -> bool:
        """Whether texts must not reach the tracking server."""
        return are_sensitive(self.prompts, self.evaluation)
