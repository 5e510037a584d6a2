"""Models of subsets of the groups, from `guda retrain --subsets` to `guda evaluate --lds`."""

from __future__ import annotations

from pathlib import Path

import pytest

from guda_lightning.cli.main import main
from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.data.grouping import Grouping
from guda_lightning.errors import ConfigError, GroupError
from guda_lightning.evaluation.subsets import ADDITIVE, SubsetEvaluation
from guda_lightning.functional.coalition_plans import subsets
from guda_lightning.scores import ScoreTable
from guda_lightning.stages.choices import Subsets, chosen_coalitions
from toys import message

CONF = Path(__file__).parent.parent / "conf"
GROUPING = Grouping({"a": [0, 1], "b": [2, 3], "c": [4], "d": [5, 6], "empty": []}, 8)


def test_a_number_draws_subsets_of_one_size_and_more_of_them_go_on() -> None:
    found = Subsets(5).removed(GROUPING)
    drawn = subsets(4, 2, 5, 0).tolist()
    assert found == [
        "+".join(name for name, stays in zip("abcd", row, strict=True) if not stays) for row in drawn
    ]
    assert Subsets("3").removed(GROUPING) == found[:3]  # as the command line gives it
    assert Subsets(4, kept=0.25).removed(GROUPING) != Subsets(4, kept=0.25, seed=1).removed(GROUPING)
    assert all(len(name.split("+")) == 3 for name in Subsets(4, kept=0.25).removed(GROUPING))


def test_a_file_names_the_groups_that_stay(tmp_path: Path) -> None:
    path = tmp_path / "subsets.txt"
    path.write_text("a,b\n\n c+d \nb,a\na\n")
    assert Subsets(str(path)).removed(GROUPING) == ["c+d", "a+b", "b+c+d"]
    assert chosen_coalitions(GROUPING, None, str(path), 0.5) == ["c+d", "a+b", "b+c+d"]
    assert chosen_coalitions(GROUPING, "a,b", None, 0.5) == ["a", "b"]


def test_models_of_subsets_are_trained_scored_and_compared(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("0,1,2,3,4\n5,6,7,8,9\n0,2,4,6,8\n")
    common = ["-c", f"{CONF}/digits.yaml", "--run", str(finished_run), "--subsets", str(path)]
    assert main(["retrain", *common]) == 0
    scored = ["attribute", *common, "-c", f"{CONF}/attribute.yaml", "--operator", "retrain"]
    assert main(scored) == 0
    removed = ("5+6+7+8+9", "0+1+2+3+4", "1+3+5+7+9")
    keys = [
        r.groups for r in CounterfactualStore(finished_run / "store").records() if r.operator == "retrain"
    ]
    assert set(keys) == {tuple(name.split("+")) for name in removed}
    assert ScoreTable.load(finished_run / "scores" / "retrain-0-subsets.parquet").groups == removed
    capsys.readouterr()
    assert main(["evaluate", str(finished_run), "--lds", "--resamples", "20"]) == 0
    found = SubsetEvaluation.load(finished_run / "evaluation").lds
    assert set(found["method"]) == {"retrack-0"} and ADDITIVE not in set(found["method"])
    assert found["value"].between(-1, 1).all()
    assert main(["report", str(finished_run)]) == 0
    assert main(["evaluate", str(finished_run), "--lds", "--calibrate", "3"]) == 2  # needs models without one
    assert f"{finished_run} has no oracle to compare with" in capsys.readouterr().err


# refused


def test_groups_and_subsets_together_are_refused() -> None:
    expected = message(
        "groups and subsets were both given",
        "--groups a and --subsets 16",
        "one of them: subsets say which groups are left out together",
        "leave out --groups, or --subsets",
    )
    with pytest.raises(ConfigError, match=expected):
        chosen_coalitions(GROUPING, "a", 16, 0.5)


def test_files_that_name_no_subsets_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "subsets.txt"
    expected = message(
        "the subsets cannot be read",
        f"{path}: No such file or directory",
        "a number of subsets, or a text file with the groups that stay, one subset a line",
        "pass --subsets 16, or correct the path",
    )
    with pytest.raises(ConfigError, match=expected):
        Subsets(str(path)).removed(GROUPING)
    path.write_text("\n")
    expected = message(
        f"{path} names no subset",
        "an empty file",
        "the groups that stay, one subset a line, such as 0,1,6",
        "write some, or pass --subsets 16",
    )
    with pytest.raises(ConfigError, match=expected):
        Subsets(str(path)).removed(GROUPING)
    path.write_text("a\na,b,c,d\n")
    expected = message(
        f"subset 2 of {path} leaves no group out",
        "all 4 groups",
        "some of the groups",
        "leave that line out: it is the full model",
    )
    with pytest.raises(GroupError, match=expected):
        Subsets(str(path)).removed(GROUPING)
    path.write_text("a,x\n")
    with pytest.raises(GroupError, match=r"^unknown group 'x'\n"):
        Subsets(str(path)).removed(GROUPING)


def test_shares_and_numbers_that_do_not_go_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=message("kept is out of range", 1.0, "0 < kept < 1", "take the usual 0.5")
    ):
        chosen_coalitions(GROUPING, None, subsets=3, kept=1.0)
    expected = message(
        "there are not so many subsets of that size",
        "7 subsets of 2 of 4 groups",
        "1 to 6",
        "take fewer subsets",
    )
    with pytest.raises(ConfigError, match=expected):
        Subsets(7).removed(GROUPING)


def test_an_attributor_or_a_screen_with_subsets_is_refused(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["attribute", "-c", f"{CONF}/digits.yaml", "--run", str(finished_run), "--subsets", "4"]
    capsys.readouterr()
    assert main([*common, "-c", "attribute/similarity.yaml"]) == 2
    assert (
        "error: subsets is about counterfactuals, and another attributor was given" in capsys.readouterr().err
    )
    assert main([*common, "--screen", "similarity:3"]) == 2
    assert "fix:      leave out --subsets, or --screen" in capsys.readouterr().err
    assert main([*common[:-2], "--groups", "3", "-c", "attribute/similarity.yaml"]) == 2
    instead = 'fix:      leave out --groups, or set attributor.init_args.groups, such as ["3","7"]'
    assert instead in capsys.readouterr().err
