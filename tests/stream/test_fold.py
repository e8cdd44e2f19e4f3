"""The glue of folds, on Ray."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from trimtab.core.errors import ActivationError
from trimtab.core.poles import NUM_POLES
from trimtab.core.rows import Labels, Rows
from trimtab.metrics.categorical import Centres
from trimtab.metrics.dimensional import Moments
from trimtab.models.engine import Prompt
from trimtab.stream.blocks import Block
from trimtab.stream.config import WorkerConfig
from trimtab.stream.fold import Folded, Measure, fold
from trimtab.stream.session import ray_session

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
SPLITS = (0, 1, 2)


def blocks_of(sizes: Sequence[int]) -> list[Block]:
    draw = np.random.default_rng(0)
    blocks, start = [], 0
    for number, size in enumerate(sizes):
        pole = draw.integers(0, NUM_POLES, size)
        labels = Labels(
            index=np.arange(start, start + size),
            vector=np.eye(NUM_POLES)[pole],
            typicality=np.ones(size),
            foundation=pole // 2,
            pole=pole,
            polarity=1 - 2 * (pole % 2),
            split=draw.integers(0, 3, size),
        )
        prompts = [Prompt([1, 2], "p")] * size
        blocks.append(Block(number, prompts, np.arange(size), labels, ["s"] * size))
        start += size
    return blocks


@dataclass(frozen=True)
class Drawn:
    """Rows that are a function of a block's number and nothing else."""

    d_model: int = 6
    held: dict[str, int] = field(default_factory=lambda: {"nf4": 7})

    def rows(self, block: Block, layers: Sequence[int]) -> dict[int, np.ndarray]:
        draw = np.random.default_rng(block.number)
        shape = len(block.labels), self.d_model
        return {layer: draw.normal(layer, 1, shape).astype(np.float32) for layer in layers}


@dataclass(frozen=True)
class Broken(Drawn):
    def rows(self, block: Block, layers: Sequence[int]) -> dict[int, np.ndarray]:
        if block.number == 2:
            raise ActivationError("layer 1 gave a NaN at scenario 7/care-harm")
        return super().rows(block, layers)


@dataclass(frozen=True)
class Seen:
    """Keeps the indices it was shown, in the order they were merged."""

    def zero(self) -> list[int]:
        return []

    def update(self, state: list[int], rows: Rows) -> list[int]:
        return [*state, *rows.labels.index.tolist()]

    def merge(self, a: list[int], b: list[int]) -> list[int]:
        return a + b

    def finish(self, state: list[int]) -> list[int]:
        return state


def run(
    blocks: list[Block], measures: dict[str, Measure], layers: Sequence[int] = (0, 3)
) -> Folded:
    with ray_session():
        return fold(blocks, Drawn(), dict.fromkeys(layers, measures), WorkerConfig())


@pytest.mark.parametrize("num_blocks", [1, 2, 5, 8])
def test_every_row_is_seen_once_in_order_with_one_merge_less_than_blocks(num_blocks: int) -> None:
    blocks = blocks_of([4] * num_blocks)
    folded = run(blocks, {"seen": Measure(Seen(), SPLITS)})
    assert folded.num_merges == num_blocks - 1
    assert folded.held == {"nf4": 7}
    for layer in (0, 3):
        assert folded.results[layer]["seen"] == list(range(4 * num_blocks))


def test_a_measure_sees_only_the_rows_of_its_splits() -> None:
    blocks = blocks_of([30, 20])
    held_out = [int(i) for b in blocks for i in b.labels.index[b.labels.split > 0]]
    folded = run(blocks, {"seen": Measure(Seen(), (1, 2))})
    assert folded.results[0]["seen"] == held_out


def test_the_result_is_what_one_fold_over_all_rows_gives_and_the_same_bits_twice() -> None:
    blocks = blocks_of([40, 30, 50])
    measures = {"centres": Measure(Centres(), SPLITS), "moments": Measure(Moments(), SPLITS)}
    folded, again = run(blocks, measures), run(blocks, measures)
    for layer in (0, 3):
        ours, twice = folded.results[layer]["centres"], again.results[layer]["centres"]
        assert np.array_equal(ours.centres, twice.centres)
        x = np.concatenate([Drawn().rows(b, [0, 3])[layer] for b in blocks])
        labels = Labels.concatenate([b.labels for b in blocks])
        # `Drawn` draws layer by layer, so each block draws both layers as the workers do.
        centres = Centres()
        plain = centres.finish(centres.update(centres.zero(), Rows(x, labels)))
        np.testing.assert_allclose(ours.centres, plain.centres, rtol=1e-12)
        readout = folded.results[layer]["moments"]
        moments = Moments()
        expected = moments.finish(moments.update(moments.zero(), Rows(x, labels)))
        np.testing.assert_allclose(readout.r2_pole, expected.r2_pole, rtol=1e-9)


def test_what_a_worker_met_comes_back_as_what_it_was() -> None:
    measures = {0: {"seen": Measure(Seen(), SPLITS)}}
    with ray_session(), pytest.raises(ActivationError, match="layer 1 gave a NaN") as caught:
        fold(blocks_of([2, 2, 2]), Broken(), measures, WorkerConfig())
    assert "Traceback" not in str(caught.value)
