import math

import pytest

from trimtab.core.names import NAMES
from trimtab.report.comparison import HEADLINES, Seen, cell, columns, differing, number


def seen(name: str, metrics: dict[str, float], **params: str) -> Seen:
    return Seen(name, name, "FINISHED", params, metrics)


def test_every_headline_is_a_listed_metric_with_listed_ends() -> None:
    names = {c.metric for c in HEADLINES} | {end for c in HEADLINES for end in c.interval or ()}
    assert names <= NAMES
    assert len({c.title for c in HEADLINES}) == len(HEADLINES)


def test_only_columns_that_a_run_has_are_shown_in_their_order() -> None:
    runs = [seen("a", {"fluency/perplexity": 9.0}), seen("b", {"evaluation/win_rate/all": 0.5})]
    assert [c.title for c in columns(runs)] == ["Win rate", "Perplexity"]
    shown = columns(runs, ["evaluation/sign_p/all", "fluency/perplexity"])
    assert [c.title for c in shown] == ["Win rate", "Perplexity", "evaluation/sign_p/all"]


def test_a_rate_stands_with_its_interval_and_a_lack_is_a_dash() -> None:
    rate = "evaluation/win_rate"
    run = seen("a", {f"{rate}/all": 0.6, f"{rate}_low/all": 0.55, f"{rate}_high/all": 0.649})
    (column,) = columns([run])
    assert cell(run, column) == "0.600 [0.550, 0.649]"
    assert cell(seen("b", {}), column) == "–"
    assert cell(seen("c", {f"{rate}/all": 0.6}), column) == "0.600"
    lacking = seen("d", {**run.metrics, f"{rate}/all": math.nan})
    assert cell(lacking, column) == "–"


def test_the_net_rate_stands_beside_the_win_rate() -> None:
    net = {"steer/net": 0.12, "steer/net_low": -0.03, "steer/net_high": 0.27}
    run = seen("a", {"evaluation/win_rate/all": 0.5, **net})
    assert [cell(run, column) for column in columns([run])] == ["0.500", "0.120 [-0.030, 0.270]"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (953.0, "953"),
        (0.0, "0.000"),
        (12.345, "12.3"),
        (-0.25, "-0.250"),
        (1.0, "1"),
        (1e7, "10000000"),
        (math.nan, "–"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_only_what_differs_is_an_axis() -> None:
    runs = [seen("a", {}, layer="3", alpha="0.1"), seen("b", {}, layer="3", alpha="0.2")]
    assert differing(runs, ["layer", "alpha", "coder"]) == ["alpha"]
    assert differing([seen("a", {}, layer="3"), seen("b", {})], ["layer"]) == ["layer"]
    assert differing([], ["layer"]) == []


def test_numbers_of_prompts_are_whole_and_failures_show_where_there_are_any() -> None:
    fine = {"evaluation/psc1/all": 0.0, "evaluation/safety_failed/all": 0.0}
    assert [cell(seen("a", fine), c) for c in columns([seen("a", fine)])] == ["0"]
    some = [seen("a", fine), seen("b", {"evaluation/safety_failed/all": 3.0})]
    assert [c.title for c in columns(some)] == ["PSC1", "Safety failed"]
    assert [cell(some[1], c) for c in columns(some)] == ["–", "3"]
