from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import NearestCentroid
from threadpoolctl import threadpool_limits

from guda_lightning import compat
from guda_lightning.data import Digits, ImageFolder, ImageTable, PromptTemplate, Source, Styled
from guda_lightning.data.sources.styles import STYLES
from guda_lightning.errors import ConfigError, DataError

ALL = tuple(STYLES)


@pytest.fixture(scope="module")
def table() -> ImageTable:
    return Styled(Digits(), limit=600).load()


@pytest.fixture(scope="module")
def pixels(table: ImageTable) -> np.ndarray:
    """``[digits, styles, channels, 32, 32]`` in [0, 1], of 400 digits."""
    return table.pixels(range(4800)).numpy().reshape(400, 12, 3, 32, 32) / 255


def test_a_sample_is_a_base_image_in_a_style() -> None:
    table = Styled(Digits(), styles=3).load()
    assert len(table.ids) == 3 * 1797
    assert table.ids[:4] == (f"0/{ALL[0]}", f"0/{ALL[1]}", f"0/{ALL[2]}", f"1/{ALL[0]}")
    assert table.labels == ALL[:3] * 1797
    assert table.label_names == ALL[:3]
    assert table.pixels([0, 4, 5391 - 1]).shape == (3, 3, 32, 32)
    assert table.prompts is not None
    contents = [PromptTemplate().parse(prompt).content for prompt in table.prompts[::3]]
    assert contents == [str(label) for label in load_digits().target]


def test_styles_may_be_named_in_any_order() -> None:
    table = Styled(Digits(), styles=["neon", "ember"], size=20, limit=2).load()
    assert table.label_names == ("ember", "neon")
    assert table.labels == ("ember", "neon") * 2
    assert table.pixels().shape == (4, 3, 20, 20)


def test_a_picture_depends_on_the_seed_its_id_and_its_style_alone(table: ImageTable) -> None:
    again = Styled(Digits(), styles=["dream", "frosted", "negative"], limit=600).load()
    position = {name: number for number, name in enumerate(table.ids)}
    same = [position[name] for name in again.ids]
    assert table.prompts is not None and again.prompts is not None
    assert [table.prompts[number] for number in same] == list(again.prompts)
    some = range(0, 1800, 7)
    assert torch.equal(table.pixels([same[number] for number in some]), again.pixels(some))
    other = Styled(Digits(), styles=["dream", "frosted", "negative"], seed=1).load()
    shared = [number for number, name in enumerate(other.ids) if name in again.ids]
    moved = [again.ids.index(other.ids[number]) for number in shared]
    assert other.prompts is not None
    assert [other.prompts[number] for number in shared] != [again.prompts[number] for number in moved]


def test_frost_is_of_its_sample_and_seed() -> None:
    class Gray(Source):
        def load(self) -> ImageTable:
            return ImageTable(("a", "b"), lambda _: Image.new("L", (40, 40), 90), ("x", "x"), ("x",))

    first, second = Styled(Gray(), styles=["frosted"]).load().pixels()
    assert not torch.equal(first, second)
    assert not torch.equal(first, Styled(Gray(), styles=["frosted"], seed=1).load().pixels()[0])


def test_a_limit_draws_base_images_with_the_seed() -> None:
    drawn = [Styled(Digits(), styles=2, limit=30, seed=seed).load().ids for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    bases = [int(name.split("/")[0]) for name in drawn[0][::2]]
    assert len(set(bases)) == 30
    assert bases == sorted(bases)
    assert Styled(Digits(), styles=1, limit=9999).load().ids == Styled(Digits(), styles=1).load().ids


def test_the_base_is_cropped_and_resized_before_it_is_rendered(tmp_path: Path, write_image) -> None:
    wide = write_image(tmp_path / "dog/1.png", size=(60, 40))
    table = Styled(ImageFolder(str(tmp_path)), styles=["negative"], size=20).load()
    square = Image.fromarray(wide[:, 10:50]).resize((20, 20), Image.Resampling.BICUBIC)
    shown = table.pixels()[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(shown - np.asarray(ImageOps.invert(square)))[2:-2, 2:-2].max() <= 1
    assert table.ids == ("dog/1.png/negative",)


def test_a_damaged_base_image_is_named(tmp_path: Path, message) -> None:
    (tmp_path / "dog").mkdir()
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(buffer, "PNG")
    (tmp_path / "dog/1.png").write_bytes(buffer.getvalue())
    pattern = message(
        "the image 'dog/1.png' cannot be read",
        "a picture of mode 'I;16', not 8-bit gray or colour",
        "complete pictures of 8 bits per channel",
        "repair, convert or remove them",
    )
    with pytest.raises(DataError, match=pattern):
        Styled(ImageFolder(str(tmp_path)), styles=2).load().pixels()


def test_prompts_name_the_content_and_three_words_for_the_style(table: ImageTable) -> None:
    assert table.prompts is not None and table.labels is not None
    combinations: dict[str, set[tuple[str, ...]]] = {style: set() for style in STYLES}
    targets = load_digits().target
    for name, style, prompt in zip(table.ids, table.labels, table.prompts, strict=True):
        parts = PromptTemplate().parse(prompt)
        assert parts.content == str(targets[int(name.split("/")[0])])
        assert len(set(parts.descriptors)) == 3
        assert set(parts.descriptors) <= set(STYLES[style][1])
        combinations[style].add(parts.descriptors)
    # 600 draws of 3 out of 5 words in any order: 60 combinations, all of which come up but for a few.
    assert all(55 <= len(drawn) <= 60 for drawn in combinations.values())


def test_some_prompts_name_the_content_alone() -> None:
    prompts = {
        share: Styled(Digits(), limit=100, named=share).load().prompts or () for share in (0.0, 0.3, 1.0)
    }
    words = {
        share: [PromptTemplate().parse(text).descriptors for text in of] for share, of in prompts.items()
    }
    named = sum(map(bool, words[0.3]))
    assert not any(words[0.0])
    assert 300 < named < 420  # of 1200; three standard deviations are 48
    assert [ours for ours in words[0.3] if ours] == [
        theirs for ours, theirs in zip(words[0.3], words[1.0], strict=True) if ours
    ]


def test_each_style_has_five_words_of_its_own() -> None:
    words = [word for _, descriptors in STYLES.values() for word in descriptors]
    assert len(STYLES) == 12
    assert all(len(descriptors) == 5 for _, descriptors in STYLES.values())
    assert len(set(words)) == 60
    assert all(1 <= len(word.split()) <= 2 and "," not in word for word in words)


def test_styles_can_be_told_apart(pixels: np.ndarray) -> None:
    styles = np.tile(np.arange(12), (200, 1))
    model = NearestCentroid().fit(pixels[:200].reshape(2400, -1), styles.ravel())
    predicted = model.predict(pixels[200:].reshape(2400, -1)).reshape(200, 12)
    assert ((predicted == styles).mean(0) > 0.9).all()


def test_content_stays_readable_in_every_style(table: ImageTable, pixels: np.ndarray) -> None:
    targets = load_digits().target[[int(name.split("/")[0]) for name in table.ids[::12]]]
    gray = pixels.reshape(400, 12, 3, 16, 2, 16, 2).mean((2, 4, 6)).reshape(400, 12, 256)
    with threadpool_limits(1):  # these problems are so small that more threads would wait for each other
        for style in range(12):
            model = RidgeClassifier(alpha=5.0).fit(gray[:300, style], targets[:300])
            assert model.score(gray[300:, style], targets[300:400]) > 0.8, ALL[style]


@pytest.mark.parametrize("size", [16, 33, 64])
def test_every_style_keeps_the_size(size: int) -> None:
    table = Styled(Digits(), size=size, limit=1).load()
    assert table.pixels().shape == (12, 3, size, size)


def test_it_is_written_in_yaml() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--source", type=Source)
    text = """
      class_path: guda_lightning.data.Styled
      init_args: {base: {class_path: guda_lightning.data.Digits}, styles: [ember, neon], limit: 5}
    """
    for styles in ([], ["--source.init_args.styles", "3"]):
        with compat.no_deprecations():
            source = parser.instantiate_classes(parser.parse_args(["--source", text, *styles])).source
        assert source == Styled(Digits(), styles=3 if styles else ["ember", "neon"], limit=5)


def test_images_without_labels_are_refused(image_folder, message) -> None:
    pattern = message(
        "the images to be styled have no labels",
        "a base without labels",
        "a label for every image, which its prompt names",
        "sort the images into one folder per label, or name a label column",
    )
    with pytest.raises(DataError, match=pattern):
        Styled(ImageFolder(str(image_folder(["a.png"])))).load()


def test_unfit_arguments_are_refused(message) -> None:
    pattern = message(
        "unknown style 'mosiac'",
        "'mosiac'",
        "one of 12 styles; nearest: 'mosaic'",
        "correct data.source.styles",
    )
    with pytest.raises(ConfigError, match=pattern):
        Styled(Digits(), styles=["ember", "mosiac"])
    for name, value, found, expected in (
        ("styles", 0, 0, "1 <= styles <= 12"),
        ("styles", 13, 13, "1 <= styles <= 12"),
        ("styles", [], 0, "1 <= styles <= 12"),
        ("size", 15, 15, "size >= 16"),
        ("seed", -1, -1, "seed >= 0"),
        ("limit", 0, 0, "limit >= 1"),
    ):
        pattern = message(
            f"data.source.{name} is out of range", found, expected, f"correct data.source.{name}"
        )
        with pytest.raises(ConfigError, match=pattern):
            Styled(Digits(), **{name: value})
