"""Similarity of features, against the models and processors of transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_encoder import Quarters
from PIL import Image
from torch import Tensor

from guda_lightning.attribution import (
    AttributionContext,
    CLIPImages,
    DINOv2,
    Encoder,
    FeatureSimilarity,
)
from guda_lightning.attribution.encoders import Pretrained
from guda_lightning.cli.main import main
from guda_lightning.data.grouping import Grouping
from guda_lightning.data.images import to_unit
from guda_lightning.errors import ConfigError, MissingExtraError, NumericsError, StoreError
from guda_lightning.latent.encoders import quiet
from guda_lightning.progress_bar import Bar, progress_bar
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.kinds import Similarity
from guda_lightning.types import Queries
from toys import gray_queries, message, shades, tiny_full

CONF = Path(__file__).parent.parent / "conf"
OVERLAPPING = Grouping({"few": [3, 40], "many": range(2, 45), "empty": [], "odd": range(1, 48, 2)}, 48)
SIDE = 16  # of what the small networks take
TOWER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
}


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained CLIP; its tower does not repeat the size of the projection, which a whole CLIP has."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("clip_images")
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(
        text_config={**small, "vocab_size": 9, "max_position_embeddings": 4},
        vision_config={**TOWER, "intermediate_size": 16},
        projection_dim=12,
    )
    edges: dict[str, Any] = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    with quiet():
        CLIPModel(config).save_pretrained(folder)
        CLIPImageProcessorPil(**edges).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dinov2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained DINOv2, whose processor resizes to more than what it then crops."""
    from transformers import Dinov2Config, Dinov2Model
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    folder = tmp_path_factory.mktemp("dinov2")
    edges: dict[str, Any] = {"size": {"shortest_edge": 20}, "crop_size": {"height": SIDE, "width": SIDE}}
    with quiet():
        Dinov2Model(Dinov2Config(**TOWER)).save_pretrained(folder)
        BitImageProcessorPil(**edges, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]).save_pretrained(
            folder
        )
    return folder


def encoder_at(request: pytest.FixtureRequest, kind: type[Pretrained]) -> Pretrained:
    return kind(str(request.getfixturevalue(f"{kind.name}_folder")))


def reference(encoder: Pretrained, pictures: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
    """What the processor of transformers makes of pictures, and what the whole model makes of that."""
    from transformers import AutoImageProcessor, AutoModel

    with quiet(), torch.no_grad():
        processor = AutoImageProcessor.from_pretrained(encoder.path)
        model = AutoModel.from_pretrained(encoder.path).eval()
        pixels = processor([picture.convert("RGB") for picture in pictures], return_tensors="pt").pixel_values
        if isinstance(encoder, DINOv2):
            return pixels, model(pixels).pooler_output
        vision = model.vision_model(pixels).pooler_output
        return pixels, model.visual_projection(vision)


def pictures_of(pixels: Tensor) -> list[Image.Image]:
    """Of ``[pictures, channels, height, width]`` uint8."""
    return [Image.fromarray(one.permute(1, 2, 0).squeeze(2).numpy()) for one in pixels]


@pytest.mark.parametrize("kind", [CLIPImages, DINOv2])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 33), (3, 40, 24)])
def test_features_are_those_of_transformers(
    kind: type[Pretrained], shape: tuple[int, ...], request: pytest.FixtureRequest
) -> None:
    encoder = encoder_at(request, kind)
    smooth = torch.nn.functional.interpolate(torch.rand(3, shape[0], 4, 4), shape[1:], mode="bilinear")
    pixels = (smooth * 255).round().to(torch.uint8)
    _, expected = reference(encoder, pictures_of(pixels))
    found = encoder(to_unit(pixels))
    assert found.shape == expected.shape
    # Pillow rounds resized pictures to 256 levels.
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * float(expected.std()))


def test_without_resizing_features_are_equal(clip_folder: Path) -> None:
    encoder = CLIPImages(str(clip_folder))
    pixels = torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8)
    _, expected = reference(encoder, pictures_of(pixels))
    torch.testing.assert_close(encoder(to_unit(pixels)), expected, rtol=1e-4, atol=1e-5)


def by_brute_force(asked: Tensor, copies: Tensor, members: Sequence[int], top: int | None) -> np.ndarray:
    """Mean cosines, one pair after the other; ``copies`` are ``[copies, images, dims]``."""
    rows = []
    for query in asked.double().numpy():
        cosines = [
            [
                float(query @ one / np.linalg.norm(query) / np.linalg.norm(one))
                for one in copies[:, i].double().numpy()
            ]
            for i in members
        ]
        values = [max(pair) if top else np.mean(pair) for pair in cosines]
        rows.append(np.mean(sorted(values, reverse=True)[:top]))
    return np.array(rows)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("top", [None, 3, 1000])
@pytest.mark.parametrize("kept", [False, True])
def test_scores_are_means_of_cosines(
    mirrored: bool, top: int | None, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guda_lightning.attribution.similarity._CHUNK", 7)
    data, asked, encoder = shades(horizontal_flip=mirrored), gray_queries("a", "b", "c"), Quarters(0.1)
    fitted = FeatureSimilarity(encoder, top).fit(
        AttributionContext(tiny_full(), data, OVERLAPPING, features=tmp_path if kept else None)
    )
    fitted.prepare()
    assert len(list(tmp_path.rglob("*.safetensors"))) == (7 if kept else 0)  # 48 images, 7 a file
    table = fitted.score(asked)
    assert (table.methods, table.weightings, table.groups) == (
        ("quarters",),
        ("cosine",),
        ("few", "many", "odd"),
    )
    images = to_unit(data.images)
    copies = torch.stack([encoder(one) for one in ([images, images.flip(-1)] if mirrored else [images])])
    for column, name in enumerate(table.groups):
        expected = by_brute_force(encoder(asked.images), copies, OVERLAPPING.forget([name]), top)
        np.testing.assert_allclose(table.matrix()[:, column].numpy(), expected, atol=1e-6)  # float32 features


def test_the_mean_over_all_images_is_the_product_with_the_mean_unit_vector(clip_folder: Path) -> None:
    data, asked, encoder = shades(), gray_queries("a", "b"), CLIPImages(str(clip_folder))
    found = FeatureSimilarity(encoder).fit(AttributionContext(tiny_full(), data)).score(asked).matrix()
    vectors = torch.nn.functional.normalize(encoder(to_unit(data.images)).double(), dim=1)
    query = torch.nn.functional.normalize(encoder(asked.images).double(), dim=1)
    means = torch.stack([vectors[data.grouping.forget([name])].mean(dim=0) for name in data.grouping.names])
    torch.testing.assert_close(found, query @ means.T, rtol=1e-5, atol=1e-6)


def test_features_are_computed_once_and_go_on_where_they_were_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guda_lightning.attribution.similarity._CHUNK", 10)
    seen: list[int] = []

    class Counting(Quarters):
        def __call__(self, images: Tensor) -> Tensor:
            seen.append(len(images))
            if len(seen) == 3:
                raise KeyboardInterrupt
            return super().__call__(images)

    context = AttributionContext(tiny_full(), shades(), features=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        FeatureSimilarity(Counting()).fit(context).prepare()
    fitted = FeatureSimilarity(Counting()).fit(context)
    fitted.prepare()
    fitted.prepare()
    assert seen == [10, 10, 10, 10, 10, 8]
    fitted.score(gray_queries("a"))
    assert seen[6:] == [1]
    other = FeatureSimilarity(Quarters(1.0)).fit(context)  # other vectors of the same name: other files
    other.prepare()
    assert [len(list(folder.iterdir())) for one in (fitted, other) for folder in one.kept()] == [5, 5]


def test_progress_counts_every_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []

    def shown(title: str, unit: str, total: int, **how: Any) -> Bar:
        bars.append(progress_bar(title, unit, total, **{**how, "lines": True, "delay": 0}))
        updates = bars[-1].updates = []
        update = bars[-1].update

        def counted(number: int) -> None:
            updates.append(number)
            update(number)

        bars[-1].update = counted
        return bars[-1]  # type: ignore[no-any-return]

    for module in ("features", "similarity"):
        monkeypatch.setattr(f"guda_lightning.attribution.{module}.progress_bar", shown)
    monkeypatch.setattr("guda_lightning.attribution.similarity._CHUNK", 20)
    monkeypatch.setattr("guda_lightning.attribution.features._BATCH", 16)
    data = shades(horizontal_flip=True)  # 48 pictures and their copies
    fitted = FeatureSimilarity(Quarters()).fit(AttributionContext(tiny_full(), data, features=tmp_path))
    fitted.prepare()
    fitted.prepare()
    fitted.score(gray_queries(*map(str, range(20))))
    assert [(bar.desc, bar.total, sum(bar.updates)) for bar in bars] == [
        ("encode images", 96, 96),
        ("encode images", 96, 96),
        ("encode queries", 20, 20),
        ("compare images", 48, 48),
    ]
    assert bars[0].updates == [16, 16, 8, 0, 16, 16, 8, 0, 16, 0] and bars[1].updates == [40, 40, 16]


def test_the_record_names_the_encoder_and_those_of_pixels_do_not(clip_folder: Path) -> None:
    context, asked = AttributionContext(tiny_full(), shades()), gray_queries("a")
    encoders: list[Encoder] = [CLIPImages(str(clip_folder)), Quarters(), Quarters(1.0)]
    records = [FeatureSimilarity(one).fit(context).record(asked) for one in encoders]
    records.append(FeatureSimilarity(Quarters(), 5).fit(context).record(asked))
    assert len({record.hash for record in records}) == 4
    details = records[0].details
    assert isinstance(details, Similarity) and (details.encoder, details.top) == (encoders[0].hash, None)
    assert all(type(one).from_stored(one.to_stored()) == one for one in records)
    assert encoders[0].hash == CLIPImages(str(clip_folder)).hash


def test_it_runs_from_the_shipped_file_and_with_an_encoder_of_ones_own(
    finished_run: Path, dinov2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    common = ["attribute", "-c", f"{CONF}/digits.yaml", "--run", str(finished_run)]
    path = ["--attributor.init_args.encoder.init_args.path", str(dinov2_folder)]
    assert main([*common, "-c", "attribute/dinov2.yaml", *path]) == 0
    (tmp_path / "own.yaml").write_text(
        "attributor:\n  class_path: guda_lightning.attribution.FeatureSimilarity\n  init_args:\n"
        "    encoder:\n      class_path: own_encoder.Quarters\n      init_args:\n        shift: 0.5\n"
    )
    assert main([*common, "-c", str(tmp_path / "own.yaml")]) == 0
    for name in ("dinov2", "quarters"):
        table = ScoreTable.load(finished_run / "scores" / f"{name}-0.parquet")
        assert table.matrix().shape[1] == 10
        (folder,) = (finished_run / "features").glob(f"{name}-*")
        assert list(folder.iterdir())


# refused


@pytest.mark.parametrize("kind", [CLIPImages, DINOv2])
def test_a_folder_of_another_network_is_refused(
    kind: type[Pretrained], clip_folder: Path, dinov2_folder: Path
) -> None:
    folder = dinov2_folder if kind is CLIPImages else clip_folder
    expected = message(
        f"the {kind.kind} {folder} cannot be read",
        f"a network of kind {'dinov2' if kind is CLIPImages else 'clip'}",
        f"a folder with preprocessor and weights of a {kind.kind}, or a name on the hub",
        f"set attributor.init_args.encoder.init_args.path, e.g. to {kind.example}; a hub name needs a "
        "connection the first time",
    )
    with pytest.raises(StoreError, match=expected):
        FeatureSimilarity(kind(str(folder))).fit(AttributionContext(tiny_full(), shades()))


def test_a_name_that_cannot_be_fetched_is_refused() -> None:
    with pytest.raises(StoreError) as caught:
        CLIPImages("openai/clip-vit-large-patch14").hash  # noqa: B018
    problem, found, *rest = str(caught.value).splitlines()
    assert problem == "the CLIP openai/clip-vit-large-patch14 cannot be read"
    assert found.startswith(
        "  found:    We couldn't connect to 'https://huggingface.co'"
    )  # transformers' words
    assert rest == [
        "  expected: a folder with preprocessor and weights of a CLIP, or a name on the hub",
        "  fix:      set attributor.init_args.encoder.init_args.path, e.g. to openai/clip-vit-large-patch14; "
        "a hub name needs a connection the first time",
    ]


def _unreadable(folder: object, found: str) -> str:
    return message(
        f"the CLIP {folder} cannot be read",
        found,
        "a folder with preprocessor and weights of a CLIP, or a name on the hub",
        "set attributor.init_args.encoder.init_args.path, e.g. to openai/clip-vit-large-patch14; a hub name "
        "needs a connection the first time",
    )


@pytest.mark.parametrize("path", ["./no", "no/such/folder", "/no", "~/clip", "https://no.invalid/x", ""])
def test_a_folder_that_is_not_there_is_refused_as_one(path: str) -> None:
    with pytest.raises(StoreError, match=_unreadable(path, "a path that is no folder here")):
        CLIPImages(path).hash  # noqa: B018


def _copied(folder: Path, to: Path) -> Path:
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_a_processor_of_another_size_is_refused_with_its_folder(clip_folder: Path, tmp_path: Path) -> None:
    file = _copied(clip_folder, tmp_path) / "preprocessor_config.json"
    settings = {**json.loads(file.read_text()), "size": {"shortest_edge": 32}}
    file.write_text(json.dumps({**settings, "crop_size": {"height": 32, "width": 32}}))
    found = f"Input image size (32*32) doesn't match model ({SIDE}*{SIDE})."  # transformers' words
    with pytest.raises(StoreError, match=_unreadable(tmp_path, found)):
        CLIPImages(str(tmp_path))(torch.zeros(1, 1, 8, 8))


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def test_weights_that_run_code_are_refused_without_advice_to_run_it(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (_copied(clip_folder, tmp_path) / "model.safetensors").unlink()
    torch.save({"a": _Runs()}, tmp_path / "pytorch_model.bin")
    found = "weights that are not read without running code of their file"
    with pytest.raises(StoreError, match=_unreadable(tmp_path, found)):
        CLIPImages(str(tmp_path)).hash  # noqa: B018
    assert not Path("ran").exists()


def test_weights_that_are_cut_off_are_refused_with_their_folder(clip_folder: Path, tmp_path: Path) -> None:
    file = _copied(clip_folder, tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:99])
    found = "Error while deserializing header: invalid header length"  # safetensors' words
    with pytest.raises(StoreError, match=_unreadable(tmp_path, found)):
        CLIPImages(str(tmp_path)).hash  # noqa: B018


def test_weights_that_are_missing_are_refused(dinov2_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in dinov2_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    expected = message(
        f"the DINOv2 {tmp_path} cannot be read",
        "1 weights are missing, such as layernorm.weight",
        "a folder with preprocessor and weights of a DINOv2, or a name on the hub",
        "set attributor.init_args.encoder.init_args.path, e.g. to facebook/dinov2-base; a hub name needs a "
        "connection the first time",
    )
    with pytest.raises(StoreError, match=expected):
        DINOv2(str(tmp_path)).hash  # noqa: B018


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    expected = message(
        "transformers is not installed",
        "no package named transformers",
        "the optional dependencies of the extra 'text'",
        'pip install "guda-lightning[text]"',
    )
    with pytest.raises(MissingExtraError, match=expected):
        CLIPImages("any").hash  # noqa: B018


def test_features_without_a_direction_are_refused() -> None:
    black = Queries(("a",), torch.full((1, 1, 8, 8), 0.0))
    fitted = FeatureSimilarity(Quarters()).fit(AttributionContext(tiny_full(), shades()))
    expected = message(
        "the features of quarters have no direction",
        "a vector that is zero or not finite",
        "a finite vector other than zero for every picture",
        "look at the encoder, and at its weights",
    )
    with pytest.raises(NumericsError, match=expected):
        fitted.score(black)


def test_no_data_and_no_top_are_refused() -> None:
    expected = message(
        "quarters needs the training images",
        "no data",
        "the datamodule of the training data",
        "pass AttributionContext(data=datamodule)",
    )
    with pytest.raises(ConfigError, match=expected):
        FeatureSimilarity(Quarters()).fit(AttributionContext(tiny_full()))
    expected = message(
        "top is out of range", 0, "top >= 1", "take 10, or null for the mean over all images of a group"
    )
    with pytest.raises(ConfigError, match=expected):
        FeatureSimilarity(Quarters(), 0)
