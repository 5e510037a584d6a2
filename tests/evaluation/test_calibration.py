from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guda_lightning.errors import ConfigError, GroupError, NumericsError
from guda_lightning.evaluation import calibrate, choose
from toys import message

GROUPS = ("a", "b", "c", "d", "e")


def planted(noise: float, queries: int = 400) -> tuple[Tensor, Tensor]:
    scores = torch.randn(queries, len(GROUPS)).double()
    return scores, 2.5 * scores - 4 + noise * torch.randn(queries, len(GROUPS))


def test_the_planted_line_and_its_error_on_held_out_groups() -> None:
    scores, oracle = planted(noise=0.5)
    found = calibrate(scores, oracle, GROUPS, ["d", "a"])
    assert (found.groups, found.held_out) == (("a", "d"), ("b", "c", "e"))
    assert found.scale == pytest.approx(2.5, abs=0.06)
    assert found.offset == pytest.approx(-4, abs=0.06)
    x, y = scores[:, [0, 3]].flatten().numpy(), oracle[:, [0, 3]].flatten().numpy()
    assert [found.scale, found.offset] == pytest.approx(np.polyfit(x, y, 1))
    truth, before = oracle[:, [1, 2, 4]], scores[:, [1, 2, 4]]
    assert found.error == pytest.approx(0.5, rel=0.05)  # only the noise is left
    assert found.error == pytest.approx(((found.scale * before + found.offset - truth) ** 2).mean().sqrt())
    # E (2.5 s - 4 + noise - s)² = 1.5² + 4² + noise²
    assert found.uncalibrated_error == pytest.approx((1.5**2 + 16 + 0.25) ** 0.5, rel=0.05)
    assert found.r2 == pytest.approx(1 - 0.25 / (2.5**2 + 0.25), abs=0.01)
    torch.testing.assert_close(found.apply(scores), found.scale * scores + found.offset)


@settings(deadline=None)  # the machine may be busy
@given(
    st.floats(-50, 50).filter(lambda x: abs(x) > 0.01), st.floats(-1e3, 1e3), st.sets(st.sampled_from(GROUPS))
)
def test_a_line_without_noise_is_recovered_from_any_groups(
    scale: float, offset: float, chosen: set[str]
) -> None:
    chosen = chosen - {"e"} or {"b"}
    scores = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)).double()
    found = calibrate(scores, scale * scores + offset, GROUPS, sorted(chosen))
    assert found.scale == pytest.approx(scale)
    assert found.offset == pytest.approx(offset, abs=1e-6)
    assert found.error == pytest.approx(0, abs=1e-6)
    assert found.r2 == pytest.approx(1)


def test_held_out_groups_do_not_enter_the_line_and_can_be_far_from_it() -> None:
    scores, oracle = planted(noise=0.1)
    before = calibrate(scores, oracle, GROUPS, ["a", "b"])
    oracle[:, 2:] = -oracle[:, 2:]
    after = calibrate(scores, oracle, GROUPS, ["a", "b"])
    assert (after.scale, after.offset) == (before.scale, before.offset)
    assert before.r2 > 0.9
    assert after.r2 < 0  # worse than the mean of the held-out groups


def test_candidates_are_ranked_on_calibration_groups_only() -> None:
    scores, oracle = planted(noise=0.5)
    candidates = {
        "noisy": scores + torch.randn_like(scores),
        "against": -scores,
        "clean": 7 * scores + 1,
        "coarse": (scores > 0).double(),
    }
    found = choose(candidates, oracle, GROUPS, ["b", "c"])
    assert list(found) == ["candidate", "r2", "spearman", "error"]
    assert list(found["candidate"]) == ["clean", "coarse", "noisy", "against"]
    truth = oracle[:, 1:3].flatten().numpy()
    for row in found.itertuples():
        x = candidates[str(row.candidate)][:, 1:3].flatten().numpy()
        line = scipy.stats.linregress(x, truth)
        assert row.r2 == pytest.approx(line.rvalue**2)
        assert row.spearman == pytest.approx(scipy.stats.spearmanr(x, truth).statistic)
        assert row.error == pytest.approx(np.sqrt(np.mean((line.slope * x + line.intercept - truth) ** 2)))
    others = {name: matrix.clone() for name, matrix in candidates.items()}
    for matrix in others.values():
        matrix[:, [0, 3, 4]] = 1e3 * torch.randn(len(matrix), 3).double()
    assert choose(others, oracle, GROUPS, ["b", "c"]).equals(found)
    only = {name: matrix[:, 1:3] for name, matrix in candidates.items()}
    assert choose(only, oracle[:, 1:3], GROUPS[1:3], ["b", "c"]).equals(found)


def test_what_was_chosen_holds_on_the_other_groups() -> None:
    scores, oracle = planted(noise=0.5)
    candidates = {str(noise): scores + noise * torch.randn_like(scores) for noise in (0.0, 0.5, 1.0, 2.0)}
    ranked = choose(candidates, oracle, GROUPS, ["a", "b"])["candidate"]
    errors = [calibrate(candidates[str(name)], oracle, GROUPS, ["a", "b"]).error for name in ranked]
    assert list(ranked) == list(candidates)
    assert errors == sorted(errors)


ROW = torch.arange(10.0).reshape(2, 5)
NO_LIST = ("a list of one or more group names", "name groups, such as ['a']")


@pytest.mark.parametrize(
    ("chosen", "kind", "expected"),
    [
        ([], ConfigError, ("invalid calibration groups: expected a list of names", [], *NO_LIST)),
        ("ab", ConfigError, ("invalid calibration groups: expected a list of names", "'ab'", *NO_LIST)),
        (
            ["a", "z"],
            GroupError,
            (
                "unknown group 'z'",
                "'z'",
                "one of 5 groups: 'a', 'b', 'c', 'd', 'e'",
                "correct the name",
            ),
        ),
        (
            ["a", "b", "a"],
            GroupError,
            (
                "calibration group 'a' is named twice",
                "a, b, a",
                "each name once",
                "remove or rename one of them",
            ),
        ),
        (
            list(GROUPS),
            ConfigError,
            (
                "no group is left to test the calibration on",
                "all 5 groups used for calibration",
                "at least one group held out",
                "calibrate on fewer groups",
            ),
        ),
    ],
)
def test_calibration_groups_that_cannot_be(
    chosen: Sequence[str], kind: type[Exception], expected: tuple[str, object, str, str]
) -> None:
    with pytest.raises(kind, match=message(*expected)):
        calibrate(ROW, ROW, GROUPS, chosen)
    if set(chosen) != set(GROUPS):
        with pytest.raises(kind, match=message(*expected)):
            choose({"m": ROW}, ROW, GROUPS, chosen)


def test_two_groups_of_one_name() -> None:
    expected = message(
        "group 'a' is named twice", "a, b, a, d, e", "each name once", "remove or rename one of them"
    )
    with pytest.raises(GroupError, match=expected):
        calibrate(ROW, ROW, ("a", "b", "a", "d", "e"), ["b"])


def test_shapes_that_do_not_fit() -> None:
    fix = "take the same queries and groups from all score tables, in the same order"
    for name, scores, oracle in (("the method", ROW[:, :4], ROW), ("the oracle", ROW, ROW[:, :4])):
        expected = message(
            f"the scores of {name} have the wrong shape",
            "shape (2, 4)",
            "shape (2, 5): queries, groups",
            fix,
        )
        with pytest.raises(ConfigError, match=expected):
            calibrate(scores, oracle, GROUPS, ["a"])
    expected = message(
        "the scores of candidate 'm' have the wrong shape",
        "shape (1, 5)",
        "shape (2, 5): queries, groups",
        fix,
    )
    with pytest.raises(ConfigError, match=expected):
        choose({"m": ROW[:1]}, ROW, GROUPS, ["a"])


def test_what_is_no_number() -> None:
    broken = ROW.clone()
    broken[1, 2] = math.inf
    for call in (
        lambda: calibrate(broken, ROW, GROUPS, ["a"]),
        lambda: choose({"m": broken}, ROW, GROUPS, ["a"]),
    ):
        with pytest.raises(NumericsError) as error:
            call()
        assert (error.value.found, error.value.expected) == ("inf at query 1, group 2", "finite numbers")


@pytest.mark.parametrize(
    ("side", "columns", "name", "chosen", "found"),
    [
        (0, slice(0, 2), "the method", ["a", "b"], "one number for 2 queries and 2 groups"),
        (1, slice(0, 2), "the oracle", ["a", "b"], "one number for 2 queries and 2 groups"),
        (1, slice(2, 5), "the oracle", ["a", "b"], "one number for 2 queries and 3 groups"),
    ],
)
def test_sides_that_do_not_vary(side: int, columns: slice, name: str, chosen: list[str], found: str) -> None:
    sides = [ROW.clone(), ROW.clone()]
    sides[side][:, columns] = 0.1
    expected = message(
        f"the scores of {name} are all the same",
        found,
        "numbers that differ between queries or groups",
        "take more queries or other groups",
    )
    with pytest.raises(NumericsError, match=expected):
        calibrate(sides[0], sides[1], GROUPS, chosen)


def test_nothing_to_choose_from() -> None:
    expected = message(
        "there are no candidates to choose from",
        "no candidates",
        "at least one",
        "score the queries with several settings",
    )
    with pytest.raises(ConfigError, match=expected):
        choose({}, ROW, GROUPS, ["a"])
