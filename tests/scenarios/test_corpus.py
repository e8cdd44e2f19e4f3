import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from trimtab.core.poles import POLES, TYPICALITIES
from trimtab.scenarios.corpus import corpus_path
from trimtab.scenarios.socialchem import Table, read
from trimtab.scenarios.split import by_position
from trimtab.scenarios.vectors import expand


def words(action: str) -> list[str]:
    """Its words in small letters, without stops."""
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", action.casefold().replace("’", "'"))


FUNCTION_WORDS = frozenset(
    words(
        """a an the this that these those my your his her its our their one's someone's somebody's
    i you he she it we they me him them us one someone somebody anyone anybody everyone nobody
    and or but nor so yet if when while after before because although though until unless since
    of to in on at by for with from into onto about over under between through during without
    against around behind near off out up down as than like is are was were be been being am
    do does did has have had will would can could shall should may might must not no never
    who whom whose which what where why how all any both each few more most other some such
    only own same too very just also even still again there here then"""
    )
)
"""Words that make a sentence's frame; all others are what it is about."""


def skeleton(action: str) -> str:
    """The sentence with every word of content replaced by `_`."""
    return " ".join(word if word in FUNCTION_WORDS else "_" for word in words(action))


PATTERNS: dict[str, Callable[[str], str]] = {
    "first word": lambda action: words(action)[0],
    "first two words": lambda action: " ".join(words(action)[:2]),
    "last two words": lambda action: " ".join(words(action)[-2:]),
    "skeleton": skeleton,
}


@pytest.fixture(scope="module")
def corpus() -> Table:
    if not corpus_path().exists():
        pytest.skip("the corpus is still to be written: scenarios/data/corpus.tsv")
    return read(corpus_path())


@pytest.fixture(scope="module")
def scenarios(corpus: Table) -> pl.DataFrame:
    return expand(corpus.rows, by_position(corpus.rows.height, (0.5, 0.25), 42), "corpus")


def test_a_skeleton_keeps_the_frame_and_drops_the_content() -> None:
    assert skeleton("Returning the wallet to its owner.") == "_ the _ to its _"
    assert skeleton("selling a bike to one's neighbour") == skeleton("lending a tent to one's boss")


def test_it_has_enough_rows_and_none_is_dropped(corpus: Table) -> None:
    assert corpus.rows.height >= 2_400
    assert not any(corpus.dropped.values())


@pytest.mark.parametrize("pole", POLES)
def test_each_pole_has_enough_rows(scenarios: pl.DataFrame, pole: str) -> None:
    assert (scenarios["pole"] == pole).sum() >= 150


def test_every_answer_and_every_typicality_occurs(corpus: Table, scenarios: pl.DataFrame) -> None:
    assert set(corpus.rows["judgment"]) == {-2, -1, 0, 1, 2}
    assert set(corpus.rows["agree"]) == {0, 1, 2, 3, 4}
    assert set(scenarios["typicality"]) == {0.0, *TYPICALITIES}


@pytest.mark.parametrize("polarity", [1, -1])
def test_virtue_and_vice_each_have_every_typicality(scenarios: pl.DataFrame, polarity: int) -> None:
    assert set(scenarios.filter(polarity=polarity)["typicality"]) == set(TYPICALITIES)


def test_no_action_comes_twice_not_even_in_other_letters_or_stops(corpus: Table) -> None:
    counts = Counter(" ".join(words(action)) for action in corpus.rows["action"])
    assert [text for text, times in counts.items() if times > 1] == []


def test_every_action_says_something(corpus: Table) -> None:
    assert [action for action in corpus.rows["action"] if len(words(action)) < 3] == []


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_sentence_pattern_makes_up_more_than_two_percent(corpus: Table, pattern: str) -> None:
    counts = Counter(PATTERNS[pattern](action) for action in corpus.rows["action"])
    limit = 0.02 * corpus.rows.height
    assert {text: times for text, times in counts.items() if times > limit} == {}


def test_no_action_is_taken_from_social_chemistry(corpus: Table, dev_file: Path) -> None:
    theirs = {" ".join(words(action)) for action in read(dev_file).rows["action"]}
    assert [action for action in corpus.rows["action"] if " ".join(words(action)) in theirs] == []
