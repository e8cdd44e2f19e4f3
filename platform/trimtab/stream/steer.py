"""One layer of a model under its arms, from prompts to verdicts, rung by rung.

    trial = Layer(config, prepared, device)
    for rung in range(len(config.rungs)):
        trial.advance(rung)

At each rung the prompts that are new are answered under every arm in shared batches, their answers
judged and their fluency measured. Answers stream to Parquet below the folder of runs, each known by
all that made it, so a trial that was interrupted, and another sweep that asks for the same, go on
from them:

    answers/NAME-HASH/layer-07/      parts of answers, and the tables of `stream.steer_tables`, in a
                                     folder named by all that judged and compared them

The unedited model answers in every layer's batches: one row in a dozen, for which no trial waits
for another and the baseline is decoded exactly as the arms beside it.
"""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from trimtab.core.config import build
from trimtab.core.files import finished_file
from trimtab.core.hashing import content_hash
from trimtab.core.progress import Report
from trimtab.core.seeds import Seed
from trimtab.evaluation.answer_store import Answer, AnswerStore
from trimtab.evaluation.answers import Asked, Speaker, answer_all, ask, known
from trimtab.evaluation.decoding import prompt_tokens, question_tokens, warn_of_length
from trimtab.evaluation.fluency import answer_nll
from trimtab.evaluation.judged import Answered, Judged, judge_answers
from trimtab.evaluation.judges.build import JudgeConfig, asking, make_judge, usage_of
from trimtab.evaluation.prompts import Question
from trimtab.models.card import ModelCard, ModelConfig
from trimtab.models.loading import describe, load
from trimtab.stream.config import ExtractJob
from trimtab.stream.steer_arms import arms_of, materials_of, told_arms
from trimtab.stream.steer_coders import Folders, check_coder, folders_of
from trimtab.stream.steer_config import SteerConfig
from trimtab.stream.steer_facts import check_judge, resolved_judge
from trimtab.stream.steer_prompts import prompt_set
from trimtab.stream.steer_results import Given, Metrics, best, by_arm, held_out, scores_of
from trimtab.stream.steer_tables import Files, write_files
from trimtab.stream.tasks import resolved
from trimtab.stream.twins import in_the_originals_place

STATE: Final = "heard.pickle"
_TOKEN_BUDGET: Final = 2_048
"""Most tokens of a batch whose likelihood is measured, or of its longest row."""


class Ready(NamedTuple):
    """What all layers share, as plain values."""

    model: dict[str, Any]
    """The model's configuration, where it lies."""
    key: str
    """Names the model in the keys of answers."""
    coders: dict[int, Folders]
    """By layer, where they were made; empty where the configuration names their folders."""
    judge: JudgeConfig
    """The judge, its model where it lies."""
    judged_by: str
    """Content hash of the judge, its rules and rubrics."""
    answers: str
    """Folder that a folder of each layer is in."""
    out: str
    """The folder of runs."""


def make_ready(config: SteerConfig, out: Path, report: Report) -> tuple[Ready, ModelCard]:
    """Everything that trials need and none of them should make: model, coders, prompts checked.

    Raises:
        TrimtabError: something the user can mend; a model without a chat template and a prompt that
            fills its context are named here, before any answer.
    """
    job = ExtractJob(data=config.data, out=out)
    (spec,) = resolved((config.model,), job, report)
    card, tokenizer = describe(spec)
    card = in_the_originals_place(card)
    prompts = prompt_set(config, out)
    tokens = question_tokens(tokenizer, prompts.questions, config.decoding, card.context)
    warn_of_length(tokens, config.decoding, card.context)
    coders: dict[int, Folders] = {}
    if config.coders.kind == "made":
        from trimtab.stream.steer_made import made  # MLflow comes with it, which no trial needs

        coders = made(config, spec, out, report)
    key = content_hash(card.identity)
    asked = content_hash([key, config.decoding.model_dump(mode="json"), prompts.digest])
    answers = out / "answers" / f"{card.label}-{asked}"
    told = spec.model_dump(mode="json")
    judge = resolved_judge(config.judge, job, report)
    stamps = content_hash(check_judge(judge, config.evaluation))
    return Ready(told, key, coders, judge, stamps, str(answers), str(out)), card


class Layer:
    """One layer on its way through the rungs."""

    def __init__(self, config: SteerConfig, ready: Ready, device: torch.device) -> None:
        """Loads model, coders and judge; nothing is answered yet.

        Raises:
            TrimtabError: one of them cannot be used.
        """
        self.config = config
        spec = build(ModelConfig, {**ready.model, "device": device.type}, where="the model")
        self.loaded = load(spec)
        self.prompts = prompt_set(config, Path(ready.out))
        self.choosing = frozenset(
            question.id
            for question, chooses in zip(self.prompts.questions, self.prompts.choosing, strict=True)
            if chooses
        )
        self.tokens = {
            question.id: prompt_tokens(self.loaded.tokenizer, question, config.decoding)
            for question in self.prompts.questions
        }
        self.told = told_arms(config)
        self.folder = Path(ready.answers) / f"layer-{config.layer:02d}"
        self._materials = materials_of(
            config, self._folders(ready), self.loaded, list(self.tokens.values()), Path(ready.out)
        )
        self._speaker = Speaker(self.loaded, self._materials, config.decoding)
        self._store = AnswerStore(self.folder)
        judge = ready.judge
        self._judge = judge if judge.kind == "http" else make_judge(judge)
        self._key = ready.key
        self._tables = content_hash([config.model_dump(mode="json"), ready.coders, ready.judged_by])
        self._seed = Seed(config.seed).child("bootstrap")
        self.rungs_done = 0
        self.given = Given([], {}, Judged([], [], []))
        self.usage: Metrics = {}
        """What an endpoint was asked for all rungs, and what it cost."""

    def _folders(self, ready: Ready) -> Folders:
        """The layer's coders; a dry run could not tell two trainings of a nursery model apart."""
        layer = self.config.layer
        if self.config.coders.kind == "made":
            return ready.coders[layer]
        found = folders_of(self.config.coders, layer)
        for path in found.values():
            check_coder(Path(path), layer, self.loaded.decoder.d_model, ready.model["id"])
        return found

    def advance(self) -> None:
        """Asks what the next rung adds.

        Raises:
            TrimtabError: the model or the judge cannot go on; what was answered is kept.
        """
        ends = (0, *self.config.rungs)
        start, stop = ends[self.rungs_done : self.rungs_done + 2]
        questions = self.prompts.questions[start:stop]
        asked = self._asked(questions)
        answers = answer_all(self._speaker, asked, self._store, self.config.rows)
        nll = self._likelihood(answers)
        judged = self._judged(asked, answers)
        before = self.given
        self.given = Given(
            before.answers + answers,
            before.nll | nll,
            Judged(*(old + new for old, new in zip(before.judged, judged, strict=True))),
        )
        self.rungs_done += 1

    def arms(self) -> dict[str, Metrics]:
        """Every arm's metrics so far."""
        return by_arm(self.given, self._seed, self.config.evaluation.num_draws)

    def best(self) -> tuple[float, Metrics]:
        """The strength that one half of the prompts chooses, and what either half says of it.

        Raises:
            JudgeError: the judge gave no verdict on a half.
        """
        draws = self.config.evaluation.num_draws
        seed = self._seed.child("best")
        alpha, found = best(self.given.judged.pairs, self.told, self.choosing, seed, draws)
        return alpha, found | {"steer/best_layer": float(self.config.layer)}

    def scores(self, arms: dict[str, Metrics]) -> Metrics:
        """What the table of trials shows of every arm."""
        draws = self.config.evaluation.num_draws
        halves = held_out(self.given.judged.pairs, self.choosing, self._seed, draws)
        return scores_of(arms, self.told) | halves

    def write(self, best_arm: str) -> Files:
        """Writes the tables of what was said so far beside the answers."""
        questions = self.prompts.questions
        folder = self.folder / "tables" / self._tables
        arms = self.arms()
        return write_files(
            self.given.judged, questions, arms, self.told, self.config.layer, best_arm, folder
        )

    def save(self, folder: Path) -> None:
        """Keeps what was heard; answers have their own store."""
        with finished_file(folder / STATE) as temporary:
            temporary.write_bytes(pickle.dumps((self.rungs_done, self.given, self.usage)))

    def load(self, folder: Path) -> None:
        """Takes up what `save` kept."""
        kept = pickle.loads((folder / STATE).read_bytes())
        self.rungs_done, self.given, self.usage = kept

    def _asked(self, questions: Sequence[Question]) -> list[Asked]:
        arms = arms_of(self.config)
        whom = known(self.loaded, identity=self._key)
        return ask(whom, questions, arms, self._materials, self.config.decoding)

    def _likelihood(self, answers: Sequence[Answer]) -> dict[tuple[str, str], float]:
        prompts = [self.tokens[answer.prompt_id] for answer in answers]
        said = [answer.tokens for answer in answers]
        longest = max(len(a) + len(b) for a, b in zip(prompts, said, strict=True))
        nll = answer_nll(self.loaded.model, prompts, said, max(_TOKEN_BUDGET, longest))
        keys = [(answer.prompt_id, answer.arm) for answer in answers]
        return dict(zip(keys, nll.tolist(), strict=True))

    def _judged(self, asked: Sequence[Asked], answers: Sequence[Answer]) -> Judged:
        answered = [
            Answered(
                one.question.id,
                one.question.dimension,
                one.question.prompt,
                one.question.reference,
                one.arm.name,
                answer.text,
            )
            for one, answer in zip(asked, answers, strict=True)
        ]
        with asking(self._judge) as judge:
            judged = judge_answers(answered, judge, self.config.evaluation)
        for name, value in usage_of(judge).items():
            self.usage[name] = self.usage.get(name, 0.0) + value
        return judged
