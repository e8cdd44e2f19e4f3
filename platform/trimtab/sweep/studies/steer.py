"""Steering swept: a trial is one layer, its strengths and controls are arms of the same batches.

A trial reports after each rung of prompts, so a layer may be stopped after its first ones. What it
stands at is `steer/chosen/net` of its best strength, on the half of the prompts that chooses; with
its last report comes `steer/held_out/net`, on the other half, and with the sweep's best trial the
best (layer, strength) has both on the parent run. MLflow has a run for each (layer, arm), step =
prompts; what an endpoint was asked for the layer, and its cost, stand with the baseline's. Sensitive
texts stay in the folder of answers (`trimtab.stream.steer_tables`).

A layer that an endpoint left cases of unanswered says so among its scores. When the same call comes
again it is judged anew: answers and replies are kept, so only those cases are asked.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from trimtab.core.errors import ConfigError
from trimtab.core.hashing import content_hash
from trimtab.core.progress import Report as Progress
from trimtab.core.tracker import Metric
from trimtab.edits.arms import BASELINE
from trimtab.models.hardware import BANDWIDTH_EFFICIENCY
from trimtab.report.steer import cell_rows, cells, draw_steer
from trimtab.report.steer_best import best_figure, best_rows, best_says
from trimtab.report.style import save
from trimtab.stream.scenarios import read
from trimtab.stream.steer import Layer, Ready, make_ready
from trimtab.stream.steer_arms import arm_name, told_arms
from trimtab.stream.steer_coders import check_coder, folders_of, stamp
from trimtab.stream.steer_config import NEEDS_POLES, SteerConfig
from trimtab.stream.steer_facts import Facts, look, width_of
from trimtab.stream.steer_prompts import prompt_set
from trimtab.stream.steer_tables import copy_to
from trimtab.sweep.results import finished, write_table
from trimtab.sweep.study import UNANSWERED, Closing, Estimate, Prepared, Report

CHOSEN: Final = "steer/chosen/net"
HELD_OUT: Final = "steer/held_out/net"
TABLE: Final = "steer-arms.parquet"
_CORE_FLOPS: Final = 1.5e10
"""Operations a second of one core where a small model decodes. Measured: 250 answers of the nursery
a second, on a machine that had other work too."""
_NUM_CODERS: Final = 3
"""Aligned, unaligned, and the one with random latents."""
_TOKENS_PER_PROMPT: Final = 30
"""Of a prompt, before its model's tokenizer has counted it."""


class SteerStudy:
    """See `trimtab.sweep.study.Study`."""

    experiment = "trimtab/steer"
    kind = SteerConfig
    curve = frozenset({CHOSEN, "steer/best_alpha"})
    final = frozenset({CHOSEN, HELD_OUT, "steer/best_alpha"})
    live: frozenset[str] = frozenset()

    def survey(self, base: SteerConfig, out: Path) -> Facts:
        """See `Study`. Prompts, judge, rubrics and chat template are looked at here."""
        return look(base, out)

    def check(self, trial: SteerConfig, facts: Facts) -> None:
        """See `Study`."""
        layer, num_layers = trial.layer, facts.weights.num_layers
        if layer >= num_layers:
            raise ConfigError(
                f"`layer < num_layers` must hold, but got ({layer=}, {num_layers=}) for "
                f"{trial.model.label}. Layers count from 0; the last one is {num_layers - 1}."
            )
        coders = trial.coders
        if coders.kind == "folders":
            for path in folders_of(coders, layer).values():
                check_coder(Path(path), layer, facts.weights.d_model, trial.model.id)
        elif coders.extract.layers != "all" and layer not in coders.extract.layers:
            raise ConfigError(
                f"Every layer of a sweep must get its coders, but layer {layer} is not among "
                f"`coders.extract.layers` {list(coders.extract.layers)}."
            )

    def estimate(self, trial: SteerConfig, facts: Facts) -> Estimate:
        """See `Study`. Judging is left out: nothing is known of its speed."""
        weights, gpu = facts.weights, facts.machine.gpu
        answers, longest = trial.rungs[-1] * len(told_arms(trial)), trial.decoding.max_new_tokens
        width = 4 if weights.published == "float32" else 2
        latents = _NUM_CODERS * 2 * width_of(trial) * weights.d_model
        held = weights.parts.bytes_in(weights.held_as(trial.model.precision)) + width * latents
        if gpu is not None:
            rate = gpu.bandwidth * BANDWIDTH_EFFICIENCY
            seconds = math.ceil(answers / trial.rows) * longest * held / rate
            said = f"{rate / 1e12:.1f} TB/s of a {gpu.kind}, which every step reads all weights at"
        else:
            seconds = answers * (_TOKENS_PER_PROMPT + longest) * 2 * weights.active / _CORE_FLOPS
            said = f"{_CORE_FLOPS / 1e9:.0f} GFLOP/s in decoding on a core"
        return Estimate(memory=held, seconds=seconds, disk=answers * 8 * longest, rate=said)

    def prepare(self, base: SteerConfig, out: Path, report: Progress) -> Prepared:
        """See `Study`: the model and its coders, where they are to be made."""
        ready, card = make_ready(base, out, report)
        prompts = prompt_set(base, out)
        coders = stamp(base.coders) if base.coders.kind == "folders" else ready.coders
        poles = set(base.arms) & set(NEEDS_POLES)
        scenarios = read(base.data, out).manifest.identity if poles else ""
        return Prepared(
            identity=content_hash([ready.key, prompts.digest, coders, ready.judged_by, scenarios]),
            payload=ready,
            tags={
                "model": card.id,
                "family": card.family,
                "group": card.group,
                "data_hash": prompts.digest,
                "sensitive": str(base.is_sensitive).lower(),
            },
            dataset=(
                prompts.name,
                prompts.digest,
                prompts.source,
                {"prompts": len(prompts.questions), "available": prompts.available},
            ),
        )

    def runs(self, trial: SteerConfig) -> Mapping[str, Mapping[str, object]]:
        """See `Study`: one run for each arm of the layer."""
        return {
            name: {"edit": arm.kind, "alpha": arm.alpha, "layer": trial.layer}
            for name, arm in told_arms(trial).items()
        }

    def start(self, trial: SteerConfig, prepared: Prepared, device: torch.device) -> "SteerRunning":
        """See `Study`."""
        return SteerRunning(trial, prepared.payload, device)

    def figures(self, trials: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
        """Heat maps of layer and strength, the best beside its controls, and the whole table."""
        found = cells(trials)
        if not found:
            return []
        write_table(cell_rows(found), folder / TABLE)
        drawn = draw_steer(found, folder)
        if (at := _best(trials)) is not None:
            drawn.append(save(best_figure(found, *at), folder / "steer-best.png"))
        return [*drawn, folder / TABLE]

    def closing(self, trials: Sequence[Mapping[str, Any]]) -> Closing | None:
        """See `Study`: the best layer and strength beside its controls."""
        if (at := _best(trials)) is None:
            return None
        found, (layer, alpha) = cells(trials), at
        title = f"Layer {layer}, alpha {alpha:g}, beside its controls"
        says = best_says(found, layer, alpha) + _unanswered(trials)
        return Closing(title, best_rows(found, layer, alpha), says)


def _best(trials: Sequence[Mapping[str, Any]]) -> tuple[int, float] | None:
    """Layer and strength of the best trial; None where no trial finished."""
    ended = finished(trials)
    return (int(ended[0]["steer/best_layer"]), ended[0]["steer/best_alpha"]) if ended else None


def _unanswered(trials: Sequence[Mapping[str, Any]]) -> str:
    cases = sum(trial.get(UNANSWERED) or 0.0 for trial in finished(trials))
    if not cases:
        return ""
    return f" {cases:,.0f} cases got no answer from the judge. The same line asks for them again."


class SteerRunning:
    """See `trimtab.sweep.study.Running`: one layer, rung by rung."""

    def __init__(self, trial: SteerConfig, ready: Ready, device: torch.device) -> None:
        """Loads model, coders and judge.

        Raises:
            TrimtabError: one of them cannot be used.
        """
        self._trial = trial
        self._layer = Layer(trial, ready, device)

    def load(self, folder: Path) -> None:
        """See `Running`."""
        self._layer.load(folder)

    def save(self, folder: Path) -> None:
        """See `Running`."""
        self._layer.save(folder)

    def reports(self) -> Iterator[Report]:
        """See `Running`; one report a rung."""
        while self._layer.rungs_done < len(self._trial.rungs):
            self._layer.advance()
            yield self._report(held_out=False)

    def finish(self, folder: Path) -> Report:
        """See `Running`; tables, without sensitive texts."""
        last = self._report(held_out=True)
        best_arm = arm_name("aligned", last.scores["steer/best_alpha"])
        files = self._layer.write(best_arm)
        copy_to(files.shared(sensitive=self._trial.is_sensitive), folder)
        return last

    def _report(self, *, held_out: bool) -> Report:
        """A score on the held-out half is told with the last report only: no one chooses by it."""
        rungs = self._trial.rungs
        asked = rungs[self._layer.rungs_done - 1]
        arms = self._layer.arms()
        _, best = self._layer.best()
        usage = self._layer.usage
        left = {UNANSWERED: usage[UNANSWERED]} if UNANSWERED in usage else {}
        scores = best | self._layer.scores(arms) | left
        kept = {k: v for k, v in scores.items() if held_out or not k.startswith(_UNSEEN)}
        metrics = {
            arm: [Metric(name, value, asked) for name, value in found.items()]
            for arm, found in arms.items()
        }
        metrics[BASELINE.name] += [Metric(n, v, asked) for n, v in usage.items()]
        return Report(asked / rungs[-1], metrics, kept)


_UNSEEN: Final = ("steer/held_out/", "held_out_")


STUDY = SteerStudy()
