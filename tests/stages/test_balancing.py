"""Images are drawn for a group until enough lead with it, by a judge that was told which of them do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

from guda_lightning.data import GroupDataModule, ImageFolder
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import sample
from guda_lightning.errors import GroupError, StoreError
from guda_lightning.report.balance_section import BalancedGroup, balance_lines
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import Similarity
from guda_lightning.stages import drawing
from guda_lightning.stages.attributed_back import AttributedBack, best_weighting, refuse_no_rival, rivals_of
from guda_lightning.stages.balanced_set import refuse_unlike, summary, write_set
from guda_lightning.stages.balancing import Balancing, first_noise
from guda_lightning.stages.drawing import ImageSampler
from guda_lightning.stages.steering import models_of_groups
from guda_lightning.stages.without import Counterfactuals, StoredModel
from guda_lightning.types import Queries
from toys import GROUPS, message, quiet_trainer, shades, tiny_full

FULL = tiny_full(timesteps=20)
SCHEDULER = DDPMScheduler(num_train_timesteps=20)


def table(scores: Sequence[Sequence[float]], ids: Sequence[str], weighting: str = "uniform") -> ScoreTable:
    matrix = torch.tensor(scores, dtype=torch.float64)
    return ScoreTable.from_matrix(
        matrix,
        torch.full_like(matrix, 0.5),
        query_ids=tuple(ids),
        groups=GROUPS,
        n_draws=1,
        method="planted",
        weighting=weighting,
        seed=0,
        record=ScoreRecord(Similarity(images_hash="x", mirrored=False, top=1, encoder=None)),
    )


@dataclass
class Planted:
    """Says of image i of a group that it leads with another one, if it was told so."""

    data: GroupDataModule
    strangers: Mapping[str, Sequence[int]]
    asked: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    conditional: bool = False
    attributor: Any = field(default_factory=lambda: SimpleNamespace(groups=GROUPS))

    def table(self, name: str, images: Queries) -> ScoreTable:
        group, _, start = name.rpartition("-")
        self.asked.append((name, images.ids))
        column = GROUPS.index(group)
        of_training = start == "training"
        scores = []
        for row in range(len(images)):
            stranger = not of_training and int(images.ids[row]) in self.strangers.get(group, ())
            leader = (column + 1) % 3 if stranger else column
            scores.append([2.0 if other == leader else 0.5 for other in range(3)])
        return table(scores, images.ids)

    def training_images(self, group: str) -> Queries:
        rows = self.data.picked(4)[group]
        return Queries(tuple(self.data.ids[row] for row in rows), torch.zeros(len(rows), 1, 8, 8))


Make = Callable[..., Balancing]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def balancing(strangers: Mapping[str, Sequence[int]], num: int = 4, least: float = 0.5) -> Balancing:
        data = shades()
        judge = cast("AttributedBack", Planted(data, strangers))
        images = Queries((), torch.empty(0, 0))
        return Balancing(
            models={name: StoredModel("planted", "x", lambda: FULL.model) for name in GROUPS},
            config={"full_hash": FULL.hash, "steps": 3, "seed": 5, "prompt_guidance": 1.0},
            num=num,
            least=least,
            rivals=rivals_of(data.grouping, GROUPS),
            sampler=ImageSampler(data, SCHEDULER, images, 3, cast("Any", quiet_trainer(tmp_path))),
            judge=judge,
            pixels=judge,
            folder=tmp_path / "work",
        )

    return balancing


def test_images_that_lead_elsewhere_are_replaced_one_for_one(make: Make) -> None:
    balancing = make({"dark": [1, 3, 4], "bright": []})
    rows = balancing.fill("dark")
    # Two of the first four, one of the two in their place, and one more.
    asked = [one for one in cast("Planted", balancing.judge).asked if not one[0].endswith("training")]
    assert (
        asked[::2]
        == asked[1::2]
        == [  # both opinions
            ("dark-0", ("00000000", "00000001", "00000002", "00000003")),
            ("dark-4", ("00000004", "00000005")),
            ("dark-6", ("00000006",)),
        ]
    )
    assert rows["margin"].tolist() == [1.5, -1.5, 1.5, -1.5, -1.5, 1.5, 1.5]
    assert rows["leads_with"].tolist() == ["bright" if at in (1, 3, 4) else "dark" for at in range(7)]
    found = summary(balancing.judge.data.grouping, "dark", rows, balancing.training("dark"), 4)
    assert found == BalancedGroup(
        name="dark",
        folder="dark",
        samples=16,
        drawn=7,
        kept=4,
        checked=4,
        leading=2,
        nearest=2,
        training=4,
        training_leading=4,
    )
    assert len(balancing.fill("bright")) == 4


def test_no_images_are_drawn_for_a_group_that_is_refused_and_twice_as_many_at_most(make: Make) -> None:
    assert len(make({"dark": [0, 1, 2]}).fill("dark")) == 4
    rows = make({"bright": [0, 1, 4, 5, 6, 7, 8, 9]}).fill("bright")
    assert len(rows) == 8 and (rows["margin"] > 0).sum() == 2


def test_an_image_is_its_groups_noise_and_number_alone(make: Make) -> None:
    """Drawn by itself, from one batch; groups share no noise."""
    rows = make({"dark": [1]}, num=4).fill("dark")
    start = first_noise("dark")
    alone = sample(FULL.model, SCHEDULER, (1, 8, 8), [start + 4], seed=5, steps=3)
    picture = np.asarray(Image.open(rows["file"][4]))
    expected = ((alone[0, 0].clamp(-1, 1) + 1) * 127.5).round().numpy().astype(np.uint8)
    assert np.array_equal(picture, expected)
    firsts = sorted(first_noise(str(name)) for name in range(50))
    assert min(np.diff(firsts)) > 10_000


def test_what_was_drawn_with_other_options_is_refused(make: Make, tmp_path: Path) -> None:
    balancing = make({})
    balancing.fill("dark")
    folder = tmp_path / "work" / "drawn" / "dark" / "0"
    wrong = message(
        f"{folder} was made with another configuration",
        "steps = 3",
        "steps = 2",
        f"use another --run, restore the configuration, or remove {folder}",
    )
    with pytest.raises(StoreError, match=wrong):
        replace(balancing, config={**balancing.config, "steps": 2}).fill("dark")


@pytest.mark.parametrize("strangers", [[], [1, 3, 4, 9]])
def test_more_and_fewer_images_are_the_same_ones_and_nothing_is_drawn_again(
    make: Make, strangers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a refusal: a larger set, one that ends within what was drawn, and one drawn at once."""
    drawn, draw = list[int](), drawing.sample

    def watched(*arguments: Any, **options: Any) -> torch.Tensor:
        drawn.extend(number - first_noise("dark") for number in arguments[3])
        return draw(*arguments, **options)

    monkeypatch.setattr(drawing, "sample", watched)

    def pictures(rows: pd.DataFrame) -> list[bytes]:
        assert rows.index.tolist() == list(range(len(rows)))
        return [Image.open(file).tobytes() for file in rows["file"]]

    first = make({"dark": strangers}, num=4)
    assert first.undrawn("dark") == 4
    before = pictures(first.fill("dark"))
    larger = make({"dark": strangers}, num=8)
    assert larger.undrawn("dark") == 8 - len(before)
    rows = larger.fill("dark")
    assert pictures(rows)[: len(before)] == before
    assert rows["margin"].tolist() == [-1.5 if number in strangers else 1.5 for number in range(len(rows))]
    assert drawn == list(range(len(rows)))
    smaller = make({"dark": strangers}, num=6)
    assert smaller.undrawn("dark") == 0
    fewer = smaller.fill("dark")
    assert pictures(fewer) == pictures(rows)[: len(fewer)] and drawn == list(range(len(rows)))
    assert (fewer["margin"] > 0).sum() == 6
    whole = replace(larger, folder=larger.folder.with_name("whole"))
    assert pictures(whole.fill("dark")) == pictures(rows)


def test_a_set_is_read_back_as_training_data(tmp_path: Path) -> None:
    names = ("a;b, c", "Плюс+", "plain")
    groups, rows = [], {}
    for number, name in enumerate(names):
        files = []
        for index in range(3):
            file = tmp_path / "drawn" / str(number) / f"{index:08d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), 80 * number + index, np.uint8)).save(file)
            files.append(file)
        rows[name] = pd.DataFrame(
            {
                "id": ["0", "1", "2"],
                "score": [0.1, 0.2, 0.3],
                "stderr": [0.01, 0.02, 0.03],
                "margin": [1.0, -0.25, 0.5],
                "leads_with": [name, "other", name],
                "nearest": [name, name, "other"],
                "file": files,
            }
        )
        whole = Grouping({name: [0, 1], "other": [2]}, 3)
        groups.append(summary(whole, name, rows[name], rows[name][:1], 2))
    folder = tmp_path / "balanced"
    write_set(folder, rows, groups, {"config": {"num": 2}})

    data = GroupDataModule(ImageFolder(str(folder / "images")), groups=str(folder / "groups.jsonl"))
    assert {name: data.grouping.size(name) for name in data.grouping.names} == dict.fromkeys(names, 2)
    for number, name in enumerate(names):
        members = data.grouping.forget([name])
        assert sorted(int(data.images[row].max()) for row in members) == [80 * number, 80 * number + 2]
    manifest = pd.read_csv(folder / "manifest.csv")
    assert manifest["group"].tolist() == [name for name in names for _ in range(3)]
    assert manifest["kept"].tolist() == [True, False, True] * 3
    assert manifest["margin"].tolist() == [1.0, -0.25, 0.5] * 3
    assert manifest["index"].tolist() == [0, 1, 2] * 3
    assert all((folder / file).is_file() for file in manifest["file"])
    record = json.loads((folder / "record.json").read_text())
    assert record["complete"] and [one["name"] for one in record["groups"]] == list(names)
    assert [(one["drawn"], one["kept"], one["leading"]) for one in record["groups"]] == [(3, 2, 1)] * 3
    assert len(list((folder / "left_out").rglob("*.png"))) == 3


@pytest.mark.parametrize(
    ("kept", "bar", "stand_in"),
    [
        ((10, 10), "9 of 10 must for each group; such a share is 90% [60%, 98%].", "1 others stand in"),
        ((9, 10), "9 of 10 must for each group; such a share is 90% [60%, 98%].", "no others stand in"),
    ],
)
def test_the_text_says_what_the_bar_can_tell_and_how_many_stand_in(
    kept: tuple[int, int], bar: str, stand_in: str
) -> None:
    groups = [
        BalancedGroup(
            name=name,
            folder=name,
            samples=9,
            drawn=11 if leading < 10 else 10,
            kept=of,
            checked=10,
            leading=leading,
            nearest=5,
            training=8,
            training_leading=7,
        )
        for name, of, leading in zip("ab", kept, (9, 10), strict=True)
    ]
    judge = {"method": "guidance", "weighting": "elbo"}
    record = {"config": {"operator": "guidance", "num": 10}, "least": 0.9, "judge": judge}
    lines = balance_lines(groups, record)
    assert lines[0].endswith(f" Intervals are those of 95 % over draws. {bar}")
    left_out = 20 + 1 - sum(kept)
    assert lines[2] == f"{left_out} images that lead with another group are left out; {stand_in} for them."
    short = "Fewer than 10 images are kept, as too few that were drawn lead with the group: a (9)."
    assert lines[3:] == ([short] if sum(kept) < 20 else [])


def test_too_few_that_lead_are_refused(tmp_path: Path) -> None:
    def group(name: str, leading: int) -> BalancedGroup:
        counts = {"samples": 9, "drawn": 10, "kept": leading, "checked": 10, "nearest": 5}
        training = {"training": 8, "training_leading": 7}
        return BalancedGroup(name=name, folder=name, leading=leading, **counts, **training)

    refuse_unlike([group("a", 9), group("b", 10)], 0.9, tmp_path)
    wrong = message(
        "too few of the images that were drawn for 2 of 3 groups lead with them",
        "a: 8 of 10, and of its training images 7 of 8; c: 0 of 10, and of its training images 7 of 8",
        "at least 90% of each",
        "train the full model, or what steers it, for longer; or leave these groups out with --groups, or "
        f"pass a lower --least: what was drawn stays in {tmp_path}",
    )
    with pytest.raises(GroupError, match=wrong):
        refuse_unlike([group("a", 8), group("b", 9), group("c", 0)], 0.9, tmp_path)


def test_groups_that_share_samples_are_no_rivals() -> None:
    grouping = Grouping({"cat": [0, 1], "pet": [0, 1, 2], "car": [3]}, 5)
    rivals = rivals_of(grouping, ("cat", "pet", "car"))
    assert {name: mask.tolist() for name, mask in rivals.items()} == {
        "cat": [False, False, True],
        "pet": [False, False, True],
        "car": [True, True, False],
    }
    refuse_no_rival(rivals, ["cat", "car"])
    alone = rivals_of(Grouping({"cat": [0, 1], "pet": [0, 1, 2]}, 5), ("cat", "pet"))
    wrong = message(
        "no image could lead with another group than 'cat'",
        "samples that it shares with every other group",
        "a group without any of its samples",
        "leave 'cat' out with --groups",
    )
    with pytest.raises(GroupError, match=wrong):
        refuse_no_rival(alone, ["cat"])


def test_the_weighting_is_the_one_by_which_training_images_lead_with_their_group() -> None:
    rivals = rivals_of(shades().grouping, GROUPS)
    right, wrong = [[3.0, 1, 1]] * 2, [[3.0, 1, 1], [1, 3.0, 1]]
    tables = {
        "dark": ScoreTable.concat([table(wrong, "ab", "elbo"), table(right, "ab", "uniform")]),
        "bright": ScoreTable.concat([table([[1, 3.0, 1]], "c", one) for one in ("elbo", "uniform")]),
    }
    assert best_weighting(tables, rivals) == "uniform"
    assert best_weighting({"bright": tables["bright"]}, rivals) == "elbo"


def test_a_counterfactual_without_all_other_groups_must_be_of_the_group(tmp_path: Path) -> None:
    data = shades(4)
    for members, left in (
        ({"dark": range(4), "bright": range(4, 8)}, 8),
        ({"dark": range(5), "noisy": range(4, 12)}, 4),
    ):
        regrouped = data.regrouped(Grouping({name: list(rows) for name, rows in members.items()}, 12))
        own = len(members["dark"])
        wrong = message(
            "a model without all groups but 'dark' is no model of that group",
            f"{left} samples outside the other groups, {own} in the group",
            "every sample in exactly one group",
            "leave out --operator, and a posterior steers to the group",
        )
        chosen = Counterfactuals(tmp_path, "finetune", 0, None)
        with pytest.raises(GroupError, match=wrong):
            models_of_groups(FULL, regrouped, ["dark"], chosen, torch.device("cpu"))
