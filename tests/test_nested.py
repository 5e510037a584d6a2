"""Groups within groups, through the command line: a parent and its children from one store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from guda_lightning import CounterfactualStore, ScoreTable
from guda_lightning.cli.main import main
from guda_lightning.data import Digits, GroupDataModule

CONF = Path(__file__).parent / "conf"
SHARED = ["-c", f"{CONF}/digits.yaml"]
FEW = ["--scoring.strata", "5", "--scoring.draws", "2"]
CHILDREN = ("0", "1")  # digits, which together make up their parent
Nested = Callable[..., None]


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    """Two digits that are also in "binary"; the others are in "more" alone."""
    data = GroupDataModule(Digits(), limit=64, seed=0)
    names = [data.grouping.names[label] for label in data.labels.tolist()]  # type: ignore[union-attr]
    groups = [f"{name};binary" if name in CHILDREN else "more" for name in names]
    path = tmp_path / "groups.csv"
    path.write_text("id,group\n" + "".join(f"{i},{g}\n" for i, g in zip(data.ids, groups, strict=True)))
    return path


@pytest.fixture
def nested(finished_run: Path, metadata: Path, tmp_path: Path) -> Nested:
    """Run a stage under nested groups, with the full model and the queries of a finished run."""
    options = ["--run", tmp_path / "nested", "--data.init_args.groups", metadata, "--full"]
    options.append(finished_run / "full" / "unet")

    def run(stage: str, *arguments: object) -> None:
        queries = ["--queries", finished_run / "queries"] if stage == "attribute" else []
        assert main(list(map(str, [stage, *SHARED, *options, *queries, *arguments]))) == 0

    return run


def scores(table: Path) -> dict[str, torch.Tensor]:
    found = ScoreTable.load(table)
    return dict(zip(found.groups, found.select(weighting="elbo").matrix().T, strict=True))


def test_the_atoms_are_the_children_and_the_rest(metadata: Path) -> None:
    grouping = GroupDataModule(Digits(), limit=64, seed=0, groups=str(metadata)).grouping
    assert grouping.names == ("0", "1", "binary", "more")
    table, atom = grouping.atoms()
    found = {tuple(name for name, inside in zip(grouping.names, row, strict=True) if inside) for row in table}
    assert found == {("0", "binary"), ("1", "binary"), ("more",)}
    assert [int((atom == a).sum()) for a in range(3)] == [
        grouping.size(next(name for name, inside in zip(grouping.names, row, strict=True) if inside))
        for row in table
    ]
    assert grouping.forget(["binary"]).tolist() == grouping.forget(CHILDREN).tolist()


def test_guidance_scores_a_parent_as_its_children_together(nested: Nested, tmp_path: Path) -> None:
    nested("guide", "-c", CONF / "guide.yaml")
    asked = "binary,0+1,0,1,more"
    nested("attribute", *FEW, "--operator", "guidance", "--groups", asked)
    table = tmp_path / "nested" / "scores" / "guidance-0-queries.parquet"
    found = scores(table)
    assert list(found) == asked.split(",")
    torch.testing.assert_close(found["binary"], found["0+1"], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(found["binary"], found["0"])
    assert not torch.allclose(found["binary"], found["0"] + found["1"])
    sizes = ScoreTable.load(table).record.group_sizes
    assert sizes["binary"] == sizes["0+1"] == sizes["0"] + sizes["1"]


def test_unlearning_a_parent_is_unlearning_its_children_together(nested: Nested, tmp_path: Path) -> None:
    nested("unlearn", "-c", CONF / "zero_target.yaml")
    nested("unlearn", "-c", CONF / "zero_target.yaml", "--groups", "0+1")
    store = CounterfactualStore(tmp_path / "nested" / "store")
    keys = {"+".join(record.groups): record.key for record in store.records()}
    assert keys.keys() == {"0", "1", "binary", "more", "0+1"}
    weights = {name: load_file(store.path(key) / "model.safetensors") for name, key in keys.items()}
    for name, parameter in weights["binary"].items():
        torch.testing.assert_close(parameter, weights["0+1"][name])
    nested("attribute", *FEW, "--operator", "zero_target", "--groups", "binary,0+1,0,1,more")
    found = scores(tmp_path / "nested" / "scores" / "zero_target-0-queries.parquet")
    torch.testing.assert_close(found["binary"], found["0+1"], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(found["binary"], found["0"])
