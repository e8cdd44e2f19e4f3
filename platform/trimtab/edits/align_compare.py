"""Before and after an alignment, on rows that neither trained it, stopped it nor chose its latents.

    before         the coder as given; prototypicality of the latents identified beforehand
    after          the aligned coder; prototypicality of the same latents
    reidentified   the aligned coder; prototypicality of the latents that its own correlations
                   on the identifying rows choose

so that `after` against `before` says what happened to the latents that were trained, and
`reidentified` whether somebody who finds the aligned coder would find better ones. Classes, strict
latents and pair cosines are over all latents, from correlations on the judged rows themselves.
Reconstruction is `trimtab.sae.evaluate`'s.

Cost: five passes of the judged rows, one of the identifying rows.
"""

from typing import Final, NamedTuple

import numpy as np

from trimtab.core.names import ALIGN_STAGES
from trimtab.locate.classes import Sets, sets_of
from trimtab.locate.config import LatentConfig
from trimtab.locate.folds import Data, correlate
from trimtab.locate.latents import Scores, score
from trimtab.sae.coder import Sae
from trimtab.sae.evaluate import Quality, quality

_RECONSTRUCTION: Final = ("mse", "fvu")


class Stage(NamedTuple):
    """One coder on the judged rows."""

    scores: Scores
    """What its latents are worth."""
    quality: Quality
    """How it reconstructs."""

    def named(self) -> dict[str, float]:
        """Scores and reconstruction by name, the undefined ones left out."""
        kept = {name: getattr(self.quality, name) for name in _RECONSTRUCTION}
        found = {name: value for name, value in kept.items() if np.isfinite(value)}
        return self.scores.named("") | found


class Comparison(NamedTuple):
    """See the module."""

    before: Stage
    after: Stage
    reidentified: Stage

    def named(self) -> dict[str, float]:
        """Every stage and the change from before to after, as metrics."""
        before, after = self.before.named(), self.after.named()
        change = {name: after[name] - before[name] for name in before.keys() & after.keys()}
        stages = (before, after, change, self.reidentified.named())
        return {
            f"align/{stage}/{name}": value
            for stage, values in zip(ALIGN_STAGES, stages, strict=True)
            for name, value in sorted(values.items())
        }


def compare(
    before: Sae, after: Sae, sets: Sets, identifying: Data, judged: Data, config: LatentConfig
) -> Comparison:
    """Judges both coders on the same rows.

    Args:
        sets: the latents of `before`, from the identifying rows.
        identifying: the rows that find the latents of `after` anew.
        judged: the rows that judge, usually the test split.

    Raises:
        CoderError: a coder is of another width than the rows.
    """
    found = sets_of(correlate(after, identifying, config.batch).r, config)
    quality_after = quality(after, judged.rows, judged.layer, config.batch)
    return Comparison(
        Stage(
            score(before, judged, sets, config),
            quality(before, judged.rows, judged.layer, config.batch),
        ),
        Stage(score(after, judged, sets, config), quality_after),
        Stage(score(after, judged, found, config), quality_after),
    )
