"""Batches: every row once an epoch, in an order that the seed and the epoch give."""

import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.seeds import Seed
from trimtab.sae.batches import Batches, MappedBatches, read_ahead
from trimtab.sae.rows import from_tensors


def numbered(n: int, batch_size: int, seed: int = 0) -> MappedBatches:
    x = torch.arange(n, dtype=torch.float32).view(n, 1)
    return MappedBatches(from_tensors({2: x, 5: -x}), batch_size, Seed(seed))


def order(batches: MappedBatches, epoch: int, start: int = 0) -> list[float]:
    found = [batch[2][:, 0] for batch in batches.epoch(epoch, start)]
    return torch.cat(found).tolist() if found else []


@given(n=st.integers(1, 30), batch_size=st.integers(1, 12))
def test_each_row_comes_once_an_epoch_the_last_batch_being_what_is_left(
    n: int, batch_size: int
) -> None:
    batches = numbered(n, batch_size)
    sizes = [len(batch[2]) for batch in batches.epoch(0, 0)]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert sum(sizes) == n
    assert sorted(order(batches, 0)) == list(range(n))


def test_layers_share_the_rows_of_a_batch() -> None:
    batches = numbered(10, 4)
    assert isinstance(batches, Batches)
    assert (batches.layers, batches.d_model, len(batches)) == ((2, 5), 1, 10)
    assert all(torch.equal(batch[2], -batch[5]) for batch in batches.epoch(0, 0))


def test_an_epoch_has_its_own_order_and_always_the_same() -> None:
    batches = numbered(40, 8)
    assert order(batches, 1) == order(numbered(40, 8), 1)
    assert order(batches, 1) != order(batches, 2)
    assert order(batches, 1) != order(numbered(40, 8, seed=1), 1)
    assert order(batches, 1) != list(range(40))


def test_an_epoch_can_begin_in_the_middle() -> None:
    batches = numbered(40, 8)
    assert order(batches, 3, 16) == order(batches, 3)[16:]
    assert order(batches, 3, 40) == []


def test_another_batch_size_cuts_the_same_order() -> None:
    assert order(numbered(40, 8), 0) == order(numbered(40, 7), 0)


def test_chunks_are_all_rows_in_their_own_order() -> None:
    assert torch.cat(list(numbered(10, 4).chunks(5)))[:, 0].tolist() == [-i for i in range(10)]


def test_the_next_item_is_prepared_by_one_other_thread_while_one_is_in_use() -> None:
    prepared, threads = threading.Event(), set()

    def items() -> Iterator[int]:
        threads.add(threading.get_ident())
        yield 0
        prepared.set()
        yield 1

    found = []
    for item in read_ahead(items()):
        assert prepared.wait(5)
        found.append(item)
    assert found == [0, 1]
    assert threads.isdisjoint({threading.get_ident()})


def test_an_error_while_reading_ahead_is_raised_where_the_item_is_asked_for() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise ValueError("torn page")

    reading = read_ahead(items())
    assert next(reading) == 0
    with pytest.raises(ValueError, match="torn page"):
        next(reading)


def test_a_loop_that_is_left_early_leaves_no_thread_behind() -> None:
    reading = read_ahead(iter(range(1000)))
    next(reading)
    reading.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("read-ahead")]


def test_reading_ahead_leaves_the_number_of_threads_as_it_was() -> None:
    before = torch.get_num_threads()
    inside = [torch.get_num_threads() for _ in read_ahead(iter(range(3)))]
    new: list[int] = []
    thread = threading.Thread(target=lambda: new.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert {*inside, *new, torch.get_num_threads()} == {before}
