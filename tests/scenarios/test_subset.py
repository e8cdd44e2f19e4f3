import random

import polars as pl
import pytest

from trimtab.core.poles import FOUNDATIONS
from trimtab.scenarios.subset import SubsetConfig, bins, subset

GRADED = (0.125, 0.25, 0.375, 0.5, 0.75)


def test_as_released_replays_one_stream_over_all_bins(dev_scenarios: pl.DataFrame) -> None:
    rows = dev_scenarios.select("scenario_id", "foundation", "polarity", "typicality").rows()
    stream = random.Random(42)
    taken = []
    for foundation in FOUNDATIONS:
        quotas = [(s, t, q) for s in (1, -1) for t, q in (*((g, 300) for g in GRADED), (1.0, 150))]
        for sign, level, quota in [*quotas, (0, 0.0, 300)]:
            found = [r[0] for r in rows if r[1:] == (foundation, sign, level)]
            taken += stream.sample(found, min(quota, len(found)))
    ours = subset(dev_scenarios, SubsetConfig(as_released=True))
    assert set(ours["scenario_id"]) == set(taken)
    assert ours.height == len(taken)


@pytest.mark.parametrize("as_released", [True, False])
def test_each_bin_gives_its_quota_or_all_that_it_has(
    dev_scenarios: pl.DataFrame, as_released: bool
) -> None:
    config = SubsetConfig(num_graded=7, num_typical=3, num_neutral=5, as_released=as_released)
    taken = {b.name: len(b.rows) for b in bins(subset(dev_scenarios, config), config)}
    for b in bins(dev_scenarios, config):
        assert taken[b.name] == min(len(b.rows), b.quota)
        assert b.quota == (5 if "neutral" in b.name else 3 if b.name.endswith("/1.0") else 7)
    assert len(taken) == 5 * 13


@pytest.mark.parametrize("as_released", [True, False])
def test_rows_keep_the_order_of_the_table_and_none_comes_twice(
    dev_scenarios: pl.DataFrame, as_released: bool
) -> None:
    ids = subset(dev_scenarios, SubsetConfig(as_released=as_released))["scenario_id"].to_list()
    position = {name: place for place, name in enumerate(dev_scenarios["scenario_id"])}
    places = [position[name] for name in ids]
    assert places == sorted(set(places))


def test_by_default_what_a_bin_gives_does_not_depend_on_the_other_bins(
    dev_scenarios: pl.DataFrame,
) -> None:
    def betrayals(frame: pl.DataFrame) -> list[str]:
        return subset(frame, SubsetConfig()).filter(pole="betrayal")["scenario_id"].to_list()

    assert betrayals(dev_scenarios) == betrayals(dev_scenarios.filter(pl.col("pole") != "harm"))
    assert betrayals(dev_scenarios) == betrayals(
        dev_scenarios.filter(foundation="loyalty-betrayal")
    )


@pytest.mark.parametrize("as_released", [True, False])
def test_a_seed_gives_the_same_rows_again_and_another_seed_gives_others(
    dev_scenarios: pl.DataFrame, as_released: bool
) -> None:
    one, same, other = (
        subset(dev_scenarios, SubsetConfig(seed=seed, as_released=as_released))
        for seed in (42, 42, 43)
    )
    assert one.equals(same)
    assert one.height == other.height
    assert not one.equals(other)


def test_a_table_without_rows_gives_a_subset_without_rows(dev_scenarios: pl.DataFrame) -> None:
    assert subset(dev_scenarios.clear(), SubsetConfig()).is_empty()
