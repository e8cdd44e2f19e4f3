"""One piece of glue for every fold: blocks -> partial states on the workers -> one merge tree.

Each block of the plan becomes one row of partial states (a column per layer). As the rows arrive,
in the plan's order, two neighbours of equal height are merged by a task on the workers; the driver
only ever holds references. The shape of that tree depends on the number of blocks and on nothing
else, so the result is the same bits for any number of workers. `Dataset.aggregate` would gather all
rows in one place first.
"""

import json
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from trimtab.core.fold import Fold
from trimtab.core.rows import Rows
from trimtab.stream.blocks import Block, from_batch, to_tables
from trimtab.stream.config import WorkerConfig
from trimtab.stream.session import ERROR, raise_returned, returning_errors, task_errors
from trimtab.stream.sources import ModelSource, Source

Progress = Callable[[int], None]
"""Called with the number of blocks that are done."""


_LARGEST_ERROR: Final = 65_536
"""Bytes of a table that the driver looks into: an error's row is smaller, most states are not."""


class Measure(NamedTuple):
    """A fold and the rows it is computed on."""

    fold: Fold
    """What is computed."""
    splits: tuple[int, ...]
    """Splits whose rows it sees."""


Measures = Mapping[int, Mapping[str, Measure]]
"""By layer and name."""


class Folded(NamedTuple):
    """What a pass over all blocks gave."""

    results: dict[int, dict[str, Any]]
    """Finished statistics by layer and name."""
    num_merges: int
    """Merges of the tree: one less than blocks."""
    held: dict[str, int]
    """Bytes of weights that the worker of the first block holds, by precision; a store holds none."""


def fold(
    blocks: list[Block],
    source: Source,
    measures: Measures,
    workers: WorkerConfig,
    finish_bytes: int = 0,
    progress: Progress = lambda _: None,
) -> Folded:
    """One pass over all blocks, for some layers.

    Args:
        blocks: the plan; at least one.
        source: where the workers get rows from.
        measures: what is computed at which layer.
        workers: what each worker gets.
        finish_bytes: what finishing one layer may hold at once; Ray runs only as many side by side
            as fit a machine.
        progress: told after each block.

    Raises:
        TrimtabError: what a worker met.
    """
    with task_errors():
        shared = ray.put(measures)
        tree = _Tree(shared)
        held: Any = None
        for done, ref in enumerate(_partial_states(blocks, source, measures, workers), 1):
            if done == 1:
                held = ray.remote(held_in).remote(ref)
            tree.add(ref)
            progress(done)
        root = tree.root()
        memory = min(finish_bytes, int(workers.memory_gb * 1e9))
        finish = ray.remote(finish_layer).options(memory=memory)
        finished = {layer: finish.remote(measures[layer], layer, root) for layer in measures}
        results = {layer: ray.get(ref) for layer, ref in finished.items()}
        weights: dict[str, int] = cast(Any, ray.get(held))
    return Folded(results, tree.num_merges, weights)


def _partial_states(
    blocks: list[Block], source: Source, measures: Measures, workers: WorkerConfig
) -> Iterator[ray.ObjectRef[Any]]:
    """A reference to each block's table of partial states, in order."""
    dataset = ray.data.from_arrow(to_tables([[block] for block in blocks]))
    if isinstance(source, ModelSource):
        dataset = dataset.map_batches(
            FoldBlocks,
            fn_constructor_kwargs={"source": source, "measures": measures},
            compute=ActorPoolStrategy(size=workers.replicas or source.placement.replicas),
            batch_size=1,
            num_cpus=workers.num_cpus,
            num_gpus=source.placement.gpus_per_replica,
        )
    else:
        dataset = dataset.map_batches(
            cast(Any, FoldBlocks(source, measures).__call__),
            compute=TaskPoolStrategy(),
            batch_size=1,
            num_cpus=workers.num_cpus,
        )
    for bundle in dataset.iter_internal_ref_bundles():
        for entry in bundle.blocks:
            if (entry.metadata.size_bytes or 0) <= _LARGEST_ERROR:
                table: Any = ray.get(cast(Any, entry.ref))
                if ERROR in table.column_names:
                    raise_returned(table[ERROR][0].as_py())
            yield cast(Any, entry.ref)


class FoldBlocks:
    """Turns a block into its partial states, in a worker."""

    def __init__(self, source: Source, measures: Measures) -> None:
        self.source, self.measures = source, measures

    @returning_errors
    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """One row: which block, how many (1), and a pickled state per layer."""
        (block,) = from_batch(batch)
        pooled = self.source.rows(block, list(self.measures))
        held = json.dumps(self.source.held)
        row: dict[str, list[Any]] = {"first": [block.number], "count": [1], "held": [held]}
        for layer, named in self.measures.items():
            rows = Rows(pooled.pop(layer), block.labels)
            states = {name: _partial(measure, rows) for name, measure in named.items()}
            row[_column(layer)] = [pickle.dumps(states, protocol=5)]
        return row


def _partial(measure: Measure, rows: Rows) -> object:
    seen = np.isin(rows.labels.split, measure.splits)
    mine = rows if seen.all() else Rows(rows.x[seen], rows.labels.take(seen))
    return measure.fold.update(measure.fold.zero(), mine)


class _Tree:
    """Merges references two by two, like carrying in a binary counter."""

    def __init__(self, measures: ray.ObjectRef[Any]) -> None:
        self._measures = measures
        self._merge_remotely = ray.remote(merge_tables)
        self._stack: list[tuple[int, ray.ObjectRef[Any]]] = []
        self.num_merges = 0

    def add(self, ref: ray.ObjectRef[Any]) -> None:
        """Takes the next block's states."""
        height = 0
        while self._stack and self._stack[-1][0] == height:
            ref = self._merge(self._stack.pop()[1], ref)
            height += 1
        self._stack.append((height, ref))

    def root(self) -> ray.ObjectRef[Any]:
        """The states of all blocks."""
        ref = self._stack.pop()[1]
        while self._stack:
            ref = self._merge(self._stack.pop()[1], ref)
        return ref

    def _merge(self, left: ray.ObjectRef[Any], right: ray.ObjectRef[Any]) -> ray.ObjectRef[Any]:
        self.num_merges += 1
        return self._merge_remotely.remote(self._measures, left, right)


def merge_tables(measures: Measures, left: pa.Table, right: pa.Table) -> pa.Table:
    """The states of two neighbours as one, in a task."""
    first, count = left["first"][0].as_py(), left["count"][0].as_py()
    assert right["first"][0].as_py() == first + count, "blocks are merged in the plan's order"
    merged = {"first": [first], "count": [count + right["count"][0].as_py()]}
    for layer, named in measures.items():
        a, b = _states(left, layer), _states(right, layer)
        states = {name: measure.fold.merge(a[name], b[name]) for name, measure in named.items()}
        merged[_column(layer)] = [pickle.dumps(states, protocol=5)]
    return pa.table(merged)


def held_in(table: pa.Table) -> dict[str, int]:
    """What the worker that made these states holds, in a task: the states stay where they are."""
    return json.loads(table["held"][0].as_py())


def finish_layer(named: Mapping[str, Measure], layer: int, root: pa.Table) -> dict[str, Any]:
    """The statistics of one layer, in a task."""
    states = _states(root, layer)
    return {name: measure.fold.finish(states[name]) for name, measure in named.items()}


def _states(table: pa.Table, layer: int) -> dict[str, Any]:
    return pickle.loads(table[_column(layer)][0].as_buffer())


def _column(layer: int) -> str:
    return f"layer_{layer}"


def layer_groups(
    layers: Sequence[int], bytes_per_layer: int, memory_gb: float
) -> list[tuple[int, ...]]:
    """Cuts layers into groups whose states fit a worker, at least one layer each.

    A merge holds three states of each layer: two and their sum.
    """
    at_once = max(1, int(memory_gb * 1e9 / (3 * bytes_per_layer)))
    return [tuple(layers[i : i + at_once]) for i in range(0, len(layers), at_once)]
