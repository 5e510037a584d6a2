"""Latents and prompts as training data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from guda_lightning import notes
from guda_lightning.data import Digits, ImageFolder, Styled, query_hash
from guda_lightning.data.images import to_unit
from guda_lightning.errors import DataError, QueryError
from guda_lightning.latent import LatentDataModule
from guda_lightning.types import Queries
from toys import Coloured, assert_same_output, message


def test_a_batch_holds_latents_and_numbers_of_prompts(data: LatentDataModule) -> None:
    batch = next(iter(data.train_dataloader()))
    rows = batch["index"]
    table = Coloured().load()
    expected = data.encoders.latents(to_unit(table.pixels(rows.tolist())))
    torch.testing.assert_close(batch["image"], expected)
    assert [data.prompts.texts[number] for number in batch["label"]] == [table.prompts[row] for row in rows]
    assert data.input_shape == (4, 4, 4)
    assert data.image_shape == (3, 16, 16)
    assert data.sample_prompts == list(table.prompts or ())
    assert torch.equal(data.images, table.pixels())
    assert data.examples(1)["red"].shape == (1, 3, 16, 16)


def test_what_was_encoded_is_read_again(
    data: LatentDataModule, pretrained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = data.inputs
    again = LatentDataModule(Coloured(), pretrained, str(data._cache.folder), batch_size=6)
    for method in ("latents", "embeddings"):
        monkeypatch.setattr(again.encoders, method, lambda part: pytest.fail("encoded again"))
    assert torch.equal(again.inputs, first)
    numbers = torch.arange(len(data.prompts))
    for name, values in data.prompts(numbers).items():
        assert torch.equal(again.prompts(numbers)[name], values)
    assert again.hash == data.hash


def test_more_images_cost_only_what_is_new(
    data: LatentDataModule, pretrained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guda_lightning.latent.data._CHUNK", 9)
    encoded: list[int] = []

    def module(count: int) -> LatentDataModule:
        made = LatentDataModule(Coloured(count), pretrained, str(data._cache.folder))
        encode = made.encoders.latents
        monkeypatch.setattr(made.encoders, "latents", lambda x: (encoded.append(len(x)), encode(x))[1])
        return made

    assert len(module(3).inputs) == 9
    assert len(module(6).inputs) == 18
    assert encoded == [9, 9]


def test_unreadable_images_of_all_chunks_are_reported_together(
    pretrained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guda_lightning.latent.data._CHUNK", 1)
    for name in ("cats/1.png", "cats/2.png", "dogs/1.png", "dogs/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name.endswith("2.png"):
            (tmp_path / name).touch()
        else:
            Image.new("RGB", (16, 16)).save(tmp_path / name)
    data = LatentDataModule(Styled(ImageFolder(str(tmp_path)), styles=2, size=16), pretrained)
    pattern = message(
        "2 images cannot be read",
        "'cats/2.png': an empty file\n            'dogs/2.png': an empty file",
        "complete pictures of 8 bits per channel",
        "repair, convert or remove them",
    )
    with pytest.raises(DataError, match=pattern):
        data.setup()


def test_home_and_variables_are_written_out(pretrained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path(pretrained).parent))
    monkeypatch.setenv("LATENTS", "/somewhere")
    data = LatentDataModule(Coloured(), f"~/{Path(pretrained).name}", "$LATENTS/cache")
    assert (data.encoders.pretrained, data._cache.folder) == (pretrained, Path("/somewhere/cache"))


def test_a_damaged_cache_is_computed_again(
    data: LatentDataModule, pretrained: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data.setup()
    folder = data._cache.folder
    assert folder is not None
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    for path, content in whole.items():
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    notes.begin()
    LatentDataModule(Coloured(), pretrained, str(folder)).setup()
    assert {path: path.read_bytes() for path in folder.iterdir()} == whole
    said = capsys.readouterr().out.splitlines()
    for path in whole:
        (note,) = (line for line in said if line.startswith(f"{path} is damaged: contents with sha256 "))
        assert note.endswith(", its seal; what it held is computed again")


def test_queries_are_encoded_and_known_by_their_prompts(data: LatentDataModule) -> None:
    images = to_unit(Coloured().load().pixels([0, 4]))
    requested = Queries(("a", "b"), images, prompts=(data.sample_prompts[4], "something else"))
    ready = data.as_queries(requested, conditional=True)
    torch.testing.assert_close(ready.latents, data.encoders.latents(images))
    assert torch.equal(ready.inputs, ready.latents)
    assert ready.labels is not None
    assert [data.prompts.texts[number] for number in ready.labels] == list(requested.prompts or ())
    assert ready.take([1]).prompts == requested.prompts[1:]


def test_queries_are_identified_without_encoding_them(
    data: LatentDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = to_unit(Coloured().load().pixels([0, 4]))
    requested = Queries(("a", "b"), images, prompts=(data.sample_prompts[4], "something else"))
    with data.forgetting_prompts():
        ready = data.as_queries(requested, conditional=True)
        assert "something else" in data.prompts.texts
    assert "something else" not in data.prompts.texts
    for method in ("latents", "embeddings"):
        monkeypatch.setattr(data.encoders, method, lambda part: pytest.fail("encoded"))
    known = data.conditioned(requested, conditional=True)
    assert (query_hash(known), known.encoders) == (query_hash(ready), ready.encoders)


def test_queries_without_prompts_are_refused(data: LatentDataModule) -> None:
    with pytest.raises(QueryError) as caught:
        data.as_queries(Queries(("a",), torch.zeros(1, 3, 16, 16)), conditional=True)
    assert str(caught.value) == (
        "a text-to-image model cannot score queries without their prompts\n"
        "  found:    1 queries without prompts\n"
        "  expected: a metadata.jsonl beside them with file_name and prompt on each line\n"
        "  fix:      write it, or use queries that `guda sample` drew"
    )


def test_data_without_prompts_is_refused(pretrained: str) -> None:
    with pytest.raises(DataError) as caught:
        LatentDataModule(Digits(), pretrained).setup()
    assert str(caught.value) == (
        "the training data has no prompts\n"
        "  found:    1797 images without texts\n"
        "  expected: a prompt for every image\n"
        "  fix:      take PromptedFolder, Styled, or a prompt_column of Parquet or HubDataset as data.source"
    )


def test_prompts_to_draw_are_those_of_training_samples(data: LatentDataModule) -> None:
    drawn = data.drawn(30, conditional=True)
    assert drawn.prompts is not None
    assert sorted(drawn.prompts[:18]) == sorted(data.sample_prompts)  # every sample once before any twice
    assert data.drawn(4, conditional=True).prompts == drawn.prompts[:4]
    assert data.pictures(data.inputs[:2]).shape == (2, 3, 16, 16)


class Reworded(Coloured):
    """The same pictures, one of them with another prompt."""

    def load(self):  # type: ignore[no-untyped-def]
        table = super().load()
        return replace(table, prompts=("something else", *(table.prompts or ())[1:]))


def test_another_prompt_is_other_data(data: LatentDataModule, pretrained: str, tmp_path: Path) -> None:
    other = LatentDataModule(Reworded(), pretrained, str(tmp_path / "cache"))
    assert_same_output(other.inputs, data.inputs)  # of encoders of its own
    assert other.hash != data.hash
    changed = [one != old for one, old in zip(other.sample_hashes, data.sample_hashes, strict=True)]
    assert changed == [one != old for one, old in zip(other.sample_prompts, data.sample_prompts, strict=True)]
    assert any(changed) and len(set(data.sample_hashes)) == len(data.ids)


def test_how_many_are_encoded_at_a_time_is_no_part_of_the_data(pretrained: str) -> None:
    one, eight = (LatentDataModule(Coloured(), pretrained, encode_batch_size=size) for size in (1, 8))
    assert (one.hash, one.sample_hashes) == (eight.hash, eight.sample_hashes)


def test_sizes_that_the_vae_does_not_give_back_are_refused(pretrained: str) -> None:
    with pytest.raises(DataError) as caught:
        LatentDataModule(Coloured(), pretrained, image_size=14).setup()
    assert str(caught.value) == (
        "the VAE cannot encode and decode these images\n"
        "  found:    14 x 14 pixels, and before 14 x 14\n"
        "  expected: one size, with sides that are multiples of 4\n"
        "  fix:      set data.image_size to a multiple of 4"
    )
