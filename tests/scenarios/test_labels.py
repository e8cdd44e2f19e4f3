import numpy as np
import polars as pl

from trimtab.core.poles import FOUNDATIONS, POLES
from trimtab.core.rows import SPLITS
from trimtab.scenarios.labels import labels


def test_labels_say_what_the_table_says(dev_scenarios: pl.DataFrame) -> None:
    known = labels(dev_scenarios)
    assert len(known) == dev_scenarios.height
    assert [FOUNDATIONS[i] for i in known.foundation] == dev_scenarios["foundation"].to_list()
    poles = [None if i < 0 else POLES[i] for i in known.pole]
    assert poles == dev_scenarios["pole"].to_list()
    assert [SPLITS[i] for i in known.split] == dev_scenarios["split"].to_list()
    assert known.polarity.tolist() == dev_scenarios["polarity"].to_list()
    assert known.vector.dtype == np.float64
    moral = known.pole >= 0
    own = known.vector[np.flatnonzero(moral), known.pole[moral]]
    assert (own == known.typicality[moral]).all()
    assert not known.typicality[~moral].any()


def test_labels_of_no_rows_are_empty(dev_scenarios: pl.DataFrame) -> None:
    known = labels(dev_scenarios.clear())
    assert len(known) == 0
    assert known.vector.shape == (0, 10)
