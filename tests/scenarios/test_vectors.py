from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.poles import FOUNDATIONS, POLES, TYPICALITIES
from trimtab.scenarios.socialchem import read
from trimtab.scenarios.vectors import SCHEMA, expand, moral_vectors

EXPECTED = {  # issue 2: virtue, vice, neutral
    "care-harm": (5536, 2826, 1352),
    "fairness-cheating": (1364, 1413, 761),
    "loyalty-betrayal": (2303, 1213, 706),
    "authority-subversion": (804, 702, 421),
    "sanctity-degradation": (404, 593, 240),
}


@pytest.fixture
def rows() -> pl.DataFrame:
    data = {
        "action": ["cheating on your significant other", "sharing", "waiting"],
        "foundations": [[0, 2], [1], [0, 4]],
        "judgment": [-2, 1, -1],
        "agree": [4, 3, 0],
    }
    integers = {"foundations": pl.List(pl.Int8), "judgment": pl.Int8, "agree": pl.Int8}
    return pl.DataFrame(data, schema_overrides=integers)


def test_the_example_of_the_methods_gets_its_poles(rows: pl.DataFrame) -> None:
    frame = expand(rows, np.array([0, 1, 2]), "made up")
    assert frame.schema == SCHEMA
    harm_and_betrayal = [float(pole in ("harm", "betrayal")) for pole in POLES]
    assert frame["vector"].to_list()[:2] == [harm_and_betrayal] * 2
    assert frame.drop("vector", "action", "source").rows() == [
        ("0/care-harm", 0, "care-harm", "harm", 1.0, -1, "train"),
        ("0/loyalty-betrayal", 0, "loyalty-betrayal", "betrayal", 1.0, -1, "train"),
        ("1/fairness-cheating", 1, "fairness-cheating", "fairness", 0.375, 1, "validation"),
        ("2/care-harm", 2, "care-harm", None, 0.0, 0, "test"),
        ("2/sanctity-degradation", 2, "sanctity-degradation", None, 0.0, 0, "test"),
    ]


def test_a_neutral_action_has_a_zero_vector_without_negative_zeros(rows: pl.DataFrame) -> None:
    vector = expand(rows, np.array([0, 1, 2]), "made up")["vector"].to_numpy()[-1]
    assert not vector.any()
    assert not np.signbit(vector).any()


def test_the_development_file_expands_to_the_published_counts(dev_scenarios: pl.DataFrame) -> None:
    assert dev_scenarios.height == 20_638
    for foundation, expected in EXPECTED.items():
        polarity = dev_scenarios.filter(foundation=foundation)["polarity"]
        assert tuple((polarity == sign).sum() for sign in (1, -1, 0)) == expected


def test_rows_are_ordered_by_action_and_then_by_foundation(dev_scenarios: pl.DataFrame) -> None:
    order = [FOUNDATIONS.index(name) for name in dev_scenarios["foundation"]]
    keys = list(zip(dev_scenarios["action_id"], order, strict=True))
    assert keys == sorted(set(keys))


def test_every_row_agrees_with_its_own_vector(dev_scenarios: pl.DataFrame) -> None:
    vector = dev_scenarios["vector"].to_numpy()
    for position, pole in enumerate(POLES):
        mine = (dev_scenarios["pole"] == pole).fill_null(value=False).to_numpy()
        assert (vector[mine, position] == dev_scenarios["typicality"].to_numpy()[mine]).all()
    assert set(np.unique(vector).tolist()) == {0.0, *TYPICALITIES}
    assert ((vector != 0).any(axis=1) == (dev_scenarios["polarity"] != 0).to_numpy()).all()


@given(
    st.lists(
        st.tuples(st.integers(-2, 2), st.integers(0, 4), st.sets(st.integers(0, 4))), min_size=1
    )
)
def test_vectors_follow_the_formula_of_the_paper(actions: list[tuple[int, int, set[int]]]) -> None:
    signed = np.array([judgment / 2 * agree / 4 for judgment, agree, _ in actions])
    pairs = [(i, f) for i, (_, _, named) in enumerate(actions) for f in sorted(named)]
    action, foundation = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    vectors = moral_vectors(signed, action, foundation)
    for row, (judgment, agree, named) in zip(vectors, actions, strict=True):
        v, w = judgment / 2, agree / 4
        pair = (max(0, v) * w, max(0, -v) * w)
        assert row.tolist() == [x for f in range(5) for x in (pair if f in named else (0, 0))]


def test_expanding_twice_gives_the_same_bytes(dev_file: Path, dev_scenarios: pl.DataFrame) -> None:
    rows = read(dev_file).rows
    again = [expand(rows, np.zeros(rows.height, np.int8), "dev") for _ in range(2)]
    assert again[0].equals(again[1])
    assert again[0].drop("split").equals(dev_scenarios.drop("split"))
