from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from guda_lightning.data import Digits, GroupDataModule, ImageFolder, ImageTable, Source
from guda_lightning.data.batches import Samples, SeededSampler
from guda_lightning.data.grouping import Grouping
from guda_lightning.errors import ConfigError, DataError, GroupError
from toys import Shades, message

pytestmark = [
    # Lightning 2.6 with torch 2.13, in every CombinedLoader.
    pytest.mark.filterwarnings("ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated:FutureWarning"),
    # Batches are cut from memory: workers would slow them down.
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
]


class Ramp(Source):
    """Ten 1 x 1 x 2 images: sample i is (i, 100 + i), in class i // 5."""

    def __init__(self) -> None:
        self.loads = 0

    def load(self) -> ImageTable:
        from PIL import Image

        self.loads += 1
        return ImageTable(
            ids=tuple("abcdefghij"),
            read=lambda index: Image.fromarray(np.array([[index, 100 + index]], dtype=np.uint8)),
            labels=("low",) * 5 + ("high",) * 5,
            label_names=("low", "high", "none"),
        )


class Seen(LightningModule):
    """Writes down every training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[tuple[int, Any]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        sides = batch if "forget" in batch else {"all": batch}
        self.seen.append((self.current_epoch, {name: as_lists(side) for name, side in sides.items()}))
        return self.layer(torch.ones(1)).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def as_lists(batch: dict[str, Tensor]) -> tuple[list[int], list[int]]:
    """Indices of a batch, and the byte at the left of each image, which tells mirrored ones."""
    return batch["index"].tolist(), ((batch["image"][:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def trainer(folder: Path, epochs: int, **options: Any) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        log_every_n_steps=1,
        **options,
    )


def test_a_batch_of_digits_is_what_the_source_holds() -> None:
    data = GroupDataModule(Digits(), batch_size=50)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert set(batch) == {"image", "label", "index", "groups"}
    assert batch["image"].shape == (50, 1, 8, 8)
    assert batch["image"].dtype == torch.float32
    assert batch["index"].dtype == batch["label"].dtype == torch.int64
    index = batch["index"]
    assert torch.equal(batch["image"], data.images[index] / 127.5 - 1)
    assert batch["image"].min() == -1
    assert batch["image"].max() == 1
    table = Digits().load()
    assert table.labels is not None
    assert [table.label_names.index(table.labels[i]) for i in index] == batch["label"].tolist()
    assert torch.equal(batch["groups"], torch.nn.functional.one_hot(batch["label"], 10).bool())


def test_what_it_says_about_itself() -> None:
    data = GroupDataModule(Ramp())
    assert data.image_shape == (1, 1, 2)
    assert data.num_classes == 3
    assert data.ids == tuple("abcdefghij")
    assert data.labels is not None
    assert data.labels.tolist() == [0] * 5 + [1] * 5
    assert data.images[:, 0, 0, 0].tolist() == list(range(10))
    assert data.grouping.names == ("low", "high", "none")
    assert data.kept.tolist() == list(range(10))


def test_it_loads_once_and_views_share_the_images() -> None:
    source = Ramp()
    data = GroupDataModule(source)
    view = data.without(["low"])
    data.setup("fit")
    data.setup("validate")
    data.unlearning(["high"])
    assert source.loads == 1
    assert view.images.data_ptr() == data.images.data_ptr()


def test_an_epoch_holds_every_sample_once_and_epochs_differ() -> None:
    loader = GroupDataModule(Ramp(), batch_size=5).train_dataloader()
    orders = []
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        orders.append(torch.cat([batch["index"] for batch in loader]).tolist())
        assert sorted(orders[-1]) == list(range(10))
    assert orders[0] != orders[1]


@pytest.mark.parametrize(("batch_size", "sizes"), [(4, [4, 4]), (10, [10]), (64, [10])])
def test_only_an_incomplete_last_batch_is_left_out(batch_size: int, sizes: list[int]) -> None:
    loader = GroupDataModule(Ramp(), batch_size=batch_size).train_dataloader()
    assert [len(batch["index"]) for batch in loader] == sizes
    assert len(loader) == len(sizes)


def test_flips_mirror_half_of_the_images_anew_every_epoch() -> None:
    loader = GroupDataModule(Ramp(), batch_size=10, horizontal_flip=True).train_dataloader()
    flips = []
    for epoch in range(60):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            index, left = as_lists(batch)
            assert all(value in (i, 100 + i) for i, value in zip(index, left, strict=True))
            flips.append([value >= 100 for _, value in sorted(zip(index, left, strict=True))])
    share = np.mean(flips, axis=0)
    assert ((share > 0.25) & (share < 0.75)).all()  # 60 fair coins leave this range once in 8000 samples


@pytest.mark.parametrize("seed", [0, 1])
def test_a_resumed_run_sees_the_same_images(tmp_path: Path, seed: int) -> None:
    def fit(epochs: int, resume: str | None, save: str | None = None) -> list[Any]:
        data = GroupDataModule(Ramp(), batch_size=4, horizontal_flip=True, seed=seed)
        module, runner = Seen(), trainer(tmp_path, epochs)
        runner.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        if save is not None:
            runner.save_checkpoint(save)
        return module.seen

    whole = fit(4, None)
    path = str(tmp_path / "half.ckpt")
    assert fit(2, None, save=path) + fit(4, path) == whole
    assert len({str(batches) for _, batches in whole}) == len(whole) == 8


@pytest.mark.parametrize(("batch_size", "expected"), [(1, 9), (4, 12)])
def test_processes_share_an_epoch(batch_size: int, expected: int) -> None:
    class Rank:
        def __init__(self, rank: int) -> None:
            self.distributed_sampler_kwargs = {"num_replicas": 3, "rank": rank}
            self.strategy = None

    data = GroupDataModule(Ramp(), batch_size=batch_size)
    dealt = [
        [i for batch in data.loader(Rank(rank), data.kept, train=True) for i in batch["index"].tolist()]  # type: ignore[arg-type]
        for rank in range(3)
    ]
    assert [len(part) for part in dealt] == [expected // 3] * 3
    # 10 samples for 3 processes: one is left out; or, where no whole batch would be left, two are repeated.
    assert len({index for part in dealt for index in part}) == min(expected, 10)


def test_the_probe_set_is_fixed_and_covers_every_group() -> None:
    data = GroupDataModule(Digits(), probe_per_group=3, horizontal_flip=True)
    first, second = (
        torch.cat([batch["index"] for batch in view.val_dataloader()])
        for view in (data, GroupDataModule(Digits(), probe_per_group=3))
    )
    assert torch.equal(first, second)
    assert first.tolist() == data.probe.tolist()
    assert data.labels is not None
    assert data.labels[first].bincount().tolist() == [3] * 10
    batch = next(iter(data.val_dataloader()))
    assert torch.equal(batch["image"], data.images[batch["index"]] / 127.5 - 1)
    other = GroupDataModule(Digits(), probe_per_group=3, seed=1).probe
    assert other.tolist() != first.tolist()


def test_small_groups_are_probed_whole() -> None:
    assert GroupDataModule(Ramp(), probe_per_group=9).probe.tolist() == list(range(10))


def test_examples_are_a_few_images_of_every_group() -> None:
    data = GroupDataModule(Ramp())
    few, more = data.examples(2), data.examples(4)
    assert {name: images.shape for name, images in few.items()} == {
        "low": (2, 1, 1, 2),
        "high": (2, 1, 1, 2),
        "none": (0, 1, 1, 2),
    }
    left = ((more["high"][:, 0, 0, 0] + 1) * 127.5).round()
    assert len(left.unique()) == 4
    assert left.min() >= 5
    assert set(few["high"].flatten().tolist()) < set(more["high"].flatten().tolist())


def test_without_trains_on_the_rest_only() -> None:
    data = GroupDataModule(Digits(), batch_size=64)
    view = data.without(["3", "5"])
    batches = list(view.train_dataloader())
    assert not torch.cat([batch["groups"] for batch in batches])[:, [3, 5]].any()
    assert view.kept.tolist() == data.grouping.retain(["3", "5"]).tolist()
    assert view.without(["7"]).kept.tolist() == data.grouping.retain(["3", "5", "7"]).tolist()
    assert data.kept.tolist() == list(range(1797))
    assert view.probe.tolist() == data.probe.tolist()
    assert view.grouping is data.grouping
    batch = batches[0]
    assert torch.equal(batch["image"], data.images[batch["index"]] / 127.5 - 1)


@given(
    everyone=st.integers(2, 40).flatmap(
        lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1), min_size=1))
    ),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 10**6),
    mirror=st.booleans(),
)
def test_samples_keep_their_order_and_flips_whichever_others_are_drawn(
    everyone: tuple[int, set[int]], seed: int, epoch: int, mirror: bool
) -> None:
    count, some = everyone
    images, membership = torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.zeros(count, 1).bool()

    def passes(chosen: list[int]) -> list[list[tuple[int, bool]]]:
        """(sample, whether mirrored) in the order of two passes of an epoch."""
        sampler = SeededSampler(
            Samples(images, None, membership, np.array(chosen), {}),
            seed=seed,
            shuffle=True,
            mirror=mirror,
            num_replicas=1,
            rank=0,
            drop_last=True,
        )
        sampler.set_epoch(epoch)
        return [[(chosen[i % len(chosen)], i >= len(chosen)) for i in sampler] for _ in range(2)]

    whole, part = passes(list(range(count))), passes(sorted(some))
    for all_items, items in zip(whole, part, strict=True):
        assert sorted(index for index, _ in items) == sorted(some)
        assert items == [(index, mirrored) for index, mirrored in all_items if index in some]
        assert mirror or not any(mirrored for _, mirrored in items)


def test_a_retraining_sees_the_rest_in_the_order_of_the_full_training() -> None:
    data = GroupDataModule(Digits(), batch_size=10, limit=300, horizontal_flip=True)

    def epoch(view: GroupDataModule, number: int) -> tuple[list[int], list[Tensor]]:
        loader = view.train_dataloader()
        loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
        batches = list(loader)
        index = torch.cat([batch["index"] for batch in batches]).tolist()
        return index, list(torch.cat([batch["image"] for batch in batches]))

    view = data.without(["3", "5"])
    assert len(view.kept) % 10  # so an incomplete batch is left out, and the last samples with it
    for number in (0, 7):
        index, images = epoch(data, number)
        shared = [place for place, i in enumerate(index) if i in set(view.kept.tolist())]
        rest, rest_images = epoch(view, number)
        assert rest == [index[place] for place in shared][: len(rest)]
        expected = torch.stack([images[place] for place in shared])[: len(rest)]
        assert torch.equal(torch.stack(rest_images), expected)


def test_a_retraining_has_a_seed_of_its_own_for_order_alone() -> None:
    data = GroupDataModule(Ramp(), batch_size=5, limit=8, probe_per_group=1)
    other = data.without(["low"], seed=3)
    again = GroupDataModule(Ramp(), batch_size=5, limit=8, probe_per_group=1).without(["low"], 3)

    def order(view: GroupDataModule) -> list[int]:
        loader = view.loader(None, view.kept, train=False)
        sampler = view.loader(None, view.kept, train=True).sampler
        chosen = torch.cat([batch["index"] for batch in loader])
        return [int(chosen[item]) for item in sampler]

    assert order(other) == order(again)
    assert order(other) == order(other.without([]))  # a view of the view keeps it
    assert order(other) != order(data.without(["low"])) == order(data.without(["low"], seed=0))
    assert other.probe.tolist() == data.probe.tolist()
    assert other.ids == data.ids
    assert (data.removed, other.removed) == ((), ("low",))


def test_groups_that_cannot_be_removed_are_refused(message) -> None:
    data = GroupDataModule(Ramp())
    pattern = message("unknown group 'hi'", "'hi'", "one of 3 groups; nearest: 'high'", "correct the name")
    for view in (data.without, data.unlearning):
        with pytest.raises(GroupError, match=pattern):
            view(["hi"])
    pattern = message(
        "the groups low, high cover all training samples",
        "10 of 10 samples",
        "some samples left to train on",
        "remove fewer groups at once",
    )
    with pytest.raises(GroupError, match=pattern):
        data.without(["low"]).without(["high"])


def test_the_same_images_under_other_groups() -> None:
    data = GroupDataModule(Ramp(), batch_size=5, horizontal_flip=True, seed=2)
    other = Grouping({"even": [0, 2, 4, 6, 8], "first": [0]}, 10)
    view = data.regrouped(other)
    assert isinstance(data.source, Ramp) and data.source.loads == 1
    assert view.images is data.images and view.labels is data.labels and view.ids == data.ids
    assert view.num_classes == data.num_classes == 3  # classes are no groups
    assert view.grouping is other
    assert data.grouping.names == ("low", "high", "none")
    assert view.without(["even"]).kept.tolist() == [1, 3, 5, 7, 9]
    assert {name: len(images) for name, images in view.examples(9).items()} == {"even": 5, "first": 1}
    mine, theirs = (list(one.train_dataloader()) for one in (view, data))
    for batch, before in zip(mine, theirs, strict=True):  # the same images in the same order, mirrored alike
        assert torch.equal(batch["image"], before["image"]) and torch.equal(batch["index"], before["index"])
        expected = torch.stack([batch["index"] % 2 == 0, batch["index"] == 0], dim=1)
        assert torch.equal(batch["groups"], expected)
    (batch, _, _), *_ = view.unlearning(["even"]).train_dataloader()
    assert (
        batch["forget"]["index"].remainder(2).eq(0).all()
        and batch["retain"]["index"].remainder(2).eq(1).all()
    )
    assert next(iter(data.train_dataloader()))["groups"].shape == (5, 3)


def test_groups_of_other_data_are_refused(message) -> None:
    pattern = message(
        "the groups are those of other training data",
        "groups over 9 samples",
        "groups over 10 samples",
        "group the samples of this data section",
    )
    with pytest.raises(GroupError, match=pattern):
        GroupDataModule(Ramp()).regrouped(Grouping({"a": [0]}, 9))


def test_unlearning_pairs_forget_and_retain() -> None:
    data = GroupDataModule(Digits(), batch_size=128)
    view = data.unlearning(["3"])
    assert view.grouping is data.grouping
    assert view.input_shape == (1, 8, 8)
    loader = view.train_dataloader()
    batches = [batch for batch, _, _ in loader]
    assert len(batches) == 1614 // 128  # an epoch of the larger side
    for batch in batches:
        assert batch["forget"]["label"].eq(3).all()
        assert not batch["retain"]["label"].eq(3).any()
        assert len(batch["forget"]["index"]) == len(batch["retain"]["index"]) == 128
    probed = torch.cat([batch["index"] for batch in view.val_dataloader()])
    assert probed.tolist() == data.probe.tolist()


def test_the_smaller_side_starts_over_in_a_new_order() -> None:
    # 183 samples fill one batch of 128: with one order per epoch, 55 of them would never be drawn in it.
    loader = GroupDataModule(Digits(), batch_size=128).unlearning(["3"]).train_dataloader()
    drawn = torch.cat([batch["forget"]["index"] for batch, _, _ in loader])
    assert len(drawn.unique()) == 183


def test_a_resumed_unlearning_sees_the_same_pairs(tmp_path: Path) -> None:
    table = Ramp().load()

    class Uneven(Ramp):
        def load(self) -> ImageTable:
            return ImageTable(table.ids, table.read, ("few",) * 3 + ("many",) * 7, ("few", "many"))

    def fit(epochs: int, resume: str | None, save: str | None = None) -> list[Any]:
        data = GroupDataModule(Uneven(), batch_size=2, horizontal_flip=True)
        module, runner = Seen(), trainer(tmp_path, epochs)
        runner.fit(module, datamodule=data.unlearning(["few"]), ckpt_path=resume, weights_only=True)
        if save is not None:
            runner.save_checkpoint(save)
        return module.seen

    whole = fit(4, None)
    path = str(tmp_path / "half.ckpt")
    assert fit(2, None, path) + fit(4, path) == whole
    assert len(whole) == 4 * 3


def test_clean_images_are_what_the_full_model_saw() -> None:
    plain = GroupDataModule(Ramp()).unlearning(["high"])
    flipped = GroupDataModule(Ramp(), horizontal_flip=True).unlearning(["high"])
    assert ((plain.forget_images() + 1) * 127.5).round()[:, 0, 0].tolist() == [
        [i, 100 + i] for i in range(5, 10)
    ]
    assert ((flipped.retain_images() + 1) * 127.5).round()[:, 0, 0].tolist() == [
        *([i, 100 + i] for i in range(5)),
        *([100 + i, i] for i in range(5)),
    ]


def test_metadata_assigns_groups_and_labels_stay(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_text("id,group\na,x;y\nb,y\nj,x\n")
    data = GroupDataModule(Ramp(), groups=str(path))
    assert data.grouping.names == ("x", "y")
    assert data.grouping.forget(["x"]).tolist() == [0, 9]
    batch = next(iter(data.train_dataloader()))
    rows = dict(zip(batch["index"].tolist(), batch["groups"].tolist(), strict=True))
    assert (rows[0], rows[1], rows[9], rows[5]) == (
        [True, True],
        [False, True],
        [True, False],
        [False, False],
    )
    assert data.num_classes == 3


def test_labels_have_a_hash_of_their_own() -> None:
    class Turned(Ramp):
        def load(self) -> ImageTable:
            table = super().load()
            return replace(table, labels=("low",) * 4 + ("high",) * 6)

    data, turned = GroupDataModule(Ramp()), GroupDataModule(Turned())
    assert data.hash == turned.hash
    assert data.labels_hash == GroupDataModule(Ramp()).labels_hash != turned.labels_hash


def test_a_limit_keeps_groups_and_ids_together(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_text("id,group\n" + "".join(f"{name},{name}s\n" for name in "abcdefghij"))
    data = GroupDataModule(Ramp(), groups=str(path), limit=4)
    assert len(data.ids) == len(data.images) == 4
    for position, name in enumerate(data.ids):
        assert data.images[position, 0, 0, 0] == "abcdefghij".index(name)
        assert data.grouping.forget([f"{name}s"]).tolist() == [position]
    assert GroupDataModule(Ramp(), limit=4).ids == data.ids
    assert GroupDataModule(Ramp(), limit=4, seed=1).ids != data.ids
    assert GroupDataModule(Ramp(), limit=99).ids == Ramp().load().ids


def test_images_without_labels_need_metadata(image_folder, tmp_path: Path, message) -> None:
    root = image_folder(["1.png", "2.png"])
    pattern = message(
        "the training data has no groups",
        "images without labels",
        "labels, or a metadata file that assigns groups",
        "sort the images into one folder per group, name a label column, or set data.groups",
    )
    with pytest.raises(DataError, match=pattern):
        GroupDataModule(ImageFolder(str(root))).setup()
    (tmp_path / "groups.csv").write_text("id,group\n1.png,a\n")
    data = GroupDataModule(ImageFolder(str(root)), groups=str(tmp_path / "groups.csv"))
    assert "label" not in next(iter(data.train_dataloader()))
    assert data.num_classes == 0


@pytest.mark.parametrize(
    ("name", "value", "lowest"),
    [
        ("batch_size", 0, 1),
        ("image_size", 0, 1),
        ("probe_per_group", 0, 1),
        ("limit", 0, 1),
        ("seed", -1, 0),
    ],
)
def test_arguments_out_of_range_are_refused(name: str, value: int, lowest: int, message) -> None:
    pattern = message(f"data.{name} is out of range", value, f"{name} >= {lowest}", f"raise data.{name}")
    with pytest.raises(ConfigError, match=pattern):
        GroupDataModule(Ramp(), **{name: value})


def test_groups_that_a_limit_leaves_out_are_told_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, table = Shades(), tmp_path / "groups.csv"
    kept = GroupDataModule(source, limit=4).ids
    others = [name for name in source.load().ids if name not in kept]
    table.write_text(f"id,group\n{kept[0]},a\n{others[0]},b\n{others[1]},c\n")
    grouping = GroupDataModule(source, limit=4, groups=str(table)).grouping
    assert [grouping.size(name) for name in grouping.names] == [1, 0, 0]
    assert capsys.readouterr().out == (
        "data: of the 4 samples that data.limit keeps, none is of the groups 'b', 'c'\n"
    )
    table.write_text(f"id,group\n{others[0]},b\n")
    expected = message(
        "no group has a sample left",
        "1 groups without any of the 4 samples that data.limit keeps",
        "at least one group with a sample",
        "raise data.limit, or leave it out",
    )
    with pytest.raises(DataError, match=expected):
        GroupDataModule(source, limit=4, groups=str(table)).setup()
