"""Shuffles, p values and false discoveries."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from trimtab.core.seeds import Seed
from trimtab.locate.chance import against, discoveries, p_values, shuffled_orders

PROMPT = np.array([4, 0, 0, 7, 4, 2, 9, 9, 9, 5, 3])


def test_rows_of_a_prompt_move_together_to_a_prompt_of_the_same_length() -> None:
    for order in shuffled_orders(PROMPT, 50, Seed(0).numpy()):
        assert sorted(order) == list(range(len(PROMPT)))
        for prompt in np.unique(PROMPT):
            rows = np.flatnonzero(prompt == PROMPT)
            sources = PROMPT[order[rows]]
            assert len(set(sources)) == 1
            assert (sources[0] == PROMPT).sum() == len(rows)


def test_only_a_prompt_without_an_equal_keeps_its_labels() -> None:
    orders = shuffled_orders(PROMPT, 200, Seed(0).numpy())
    stays = (orders == np.arange(len(PROMPT))).all(axis=0)
    assert stays.tolist() == (PROMPT == 9).tolist()


def test_every_arrangement_is_as_likely() -> None:
    orders = shuffled_orders(np.arange(3), 6_000, Seed(1).numpy())
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    assert np.abs(counts - 1_000).max() < 130


def test_the_same_seed_gives_the_same_shuffles() -> None:
    a, b = (shuffled_orders(PROMPT, 5, Seed(3).numpy()) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert (a != shuffled_orders(PROMPT, 5, Seed(4).numpy())).any()


def test_a_share_is_compared_with_its_shuffles() -> None:
    found = against(0.5, np.linspace(0, 1, 101))
    assert found.chance == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.025, 0.975))
    assert found.p == pytest.approx(52 / 102)
    assert against(2.0, np.zeros(99)).p == pytest.approx(0.01)
    assert np.isnan(against(0.5, np.zeros(0))[1:]).all()


def test_p_values_count_the_shuffled_of_latents_about_as_active() -> None:
    r = np.array([[0.5] * 10, [0.05] * 10, [0.5] * 10, [np.nan] * 10])
    shuffled = np.zeros((9, 4, 10))
    shuffled[:, :2] = np.linspace(-0.4, 0.4, 9)[:, None, None]
    shuffled[:, 2] = 0.6
    p = p_values(r, shuffled, np.array([4, 7, 8, 0]))
    assert p[0] == pytest.approx(1 / 19)
    assert p[1] == pytest.approx((1 + 2 * 8) / 19)  # all but the shuffle that gave 0
    assert p[2] == pytest.approx(1.0)
    assert np.isnan(p[3]).all()


def test_discoveries_are_benjamini_and_hochbergs() -> None:
    p = np.random.default_rng(0).random((40, 10)) ** 3
    p[7] = np.nan
    expected = np.stack([false_discovery_control(np.delete(of, 7)) <= 0.1 for of in p.T], axis=1)
    found = discoveries(p, 0.1)
    assert not found[7].any()
    np.testing.assert_array_equal(np.delete(found, 7, axis=0), expected)
    assert expected.any()
    assert not expected.all()


def test_without_a_signal_discoveries_stay_rare() -> None:
    draw = np.random.default_rng(5)
    runs = 60
    with_any = 0
    for _ in range(runs):
        null = draw.normal(size=(31, 80, 10))
        p = p_values(null[0], null[1:], np.full(80, 12))
        with_any += discoveries(p, 0.05)[:, 0].any()
    assert with_any / runs < 0.15
