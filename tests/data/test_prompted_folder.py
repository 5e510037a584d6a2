from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from guda_lightning.data import PromptedFolder, PromptTemplate
from guda_lightning.errors import DataError

EXAMPLE = '{"style": "Van Gogh", "object": "Dogs", "prompt": "An artwork of Dogs, with swirls"}'
FIX = "add what is missing, or set data.source.missing to drop, which leaves these out"
FIX_LINE = "name the columns so, or fill in the line"
PLACE = "a column 'file_name', or the columns 'style' and 'object'"
EXPECTED = "a prompt for every image, and an image for every prompt"
BOTH = {"prompt": "An artwork of Cats", "style": "Van Gogh", "object": "Cats"}

Row = dict[str, object]


def row(style: str, thing: str, *descriptors: str) -> Row:
    """A row of the form of UnlearnCanvas."""
    prompt = f"An artwork of {thing}, with {', '.join(descriptors)}"
    return {"style": style, "object": thing, "prompt": prompt, "descriptors": descriptors}


def save(folder: Path, *rows: Row) -> str:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_every_image_of_a_style_and_object_takes_their_prompt(
    tmp_path: Path, image_folder, write_image
) -> None:
    names = [
        "Artist_Sketch/Cats/1.png",
        "Van Gogh/Cats/deep/3.png",
        "Van Gogh/Cats/2.png",
        "Van Gogh/Sea/1.png",
    ]
    root = image_folder(names)  # fmt: skip
    prompts = save(
        root,  # among the images
        row("Artist Sketch", "Cats", "soft shading", "grayscale"),
        row("Van_Gogh", "Sea", "swirls"),
        row("Van Gogh", "Cats", "impasto"),
    )
    table = PromptedFolder(str(root), prompts).load()
    assert table.ids == (names[0], names[2], names[1], names[3])
    assert table.labels is not None
    assert table.labels[0] == "Artist Sketch"
    assert len(set(table.labels[1:])) == 1  # however it is written
    assert set(table.label_names) == set(table.labels)
    assert table.prompts is not None
    parts = [PromptTemplate().parse(prompt) for prompt in table.prompts]
    assert [part.content for part in parts] == ["Cats", "Cats", "Cats", "Sea"]
    assert [part.descriptors for part in parts] == [
        ("soft shading", "grayscale"),
        ("impasto",),
        ("impasto",),
        ("swirls",),
    ]
    written = write_image(tmp_path / "again.png", seed=1)
    assert (table.pixels([2])[0].permute(1, 2, 0).numpy() == written).all()


def test_images_of_a_folder_take_turns_at_its_prompts(tmp_path: Path, image_folder) -> None:
    root = image_folder([f"Oil/Cats/{number}.png" for number in (1, 2, 3, 10)] + ["Oil/Sea/1.png"])
    rows = [row("Oil", "Cats", "a"), row("Oil", "Sea", "x"), row("Oil", "Cats", "b"), row("Oil", "Cats", "c")]
    table = PromptedFolder(str(root), save(tmp_path, *rows, row("Oil", "Sea", "y"))).load()
    assert [name[4:-4] for name in table.ids] == ["Cats/1", "Cats/10", "Cats/2", "Cats/3", "Sea/1"]
    assert table.prompts is not None
    assert [prompt[-1] for prompt in table.prompts] == list("abcax")


def test_a_prompt_may_be_one_images(tmp_path: Path, image_folder) -> None:
    root = image_folder(["Oil/Cats/1.png", "Oil/Cats/2.png", "b.png", "Ink/c.png"])
    prompts = save(
        tmp_path,
        {"file_name": "b.png", "prompt": "B", "style": "Ink"},
        {"file_name": "./Oil/Cats/2.png", "prompt": "Two"},
        {"file_name": "Ink/c.png", "prompt": "C"},
        row("Oil", "Cats", "a"),
    )
    table = PromptedFolder(str(root), prompts).load()
    assert table.ids == ("Ink/c.png", "Oil/Cats/1.png", "Oil/Cats/2.png", "b.png")
    assert table.prompts == ("C", "An artwork of Cats, with a", "Two", "B")
    assert table.labels == ("Ink", "Oil", "Oil", "Ink")


def test_images_without_styles_have_no_labels(tmp_path: Path, image_folder, message) -> None:
    root = image_folder(["a.png", "b.png"])
    rows: list[Row] = [{"file_name": "a.png", "prompt": "A"}, {"file_name": "b.png", "prompt": "B"}]
    assert PromptedFolder(str(root), save(tmp_path, *rows)).load().labels is None
    rows[1]["style"] = "Oil"
    pattern = message(
        f"some images of {root} have no style",
        "1 of 2 images, such as a.png",
        "every image in a style's folder or with a style in its row, or none",
        f"add a column 'style' to {tmp_path / 'prompts.jsonl'}",
    )
    with pytest.raises(DataError, match=pattern):
        PromptedFolder(str(root), save(tmp_path, *rows)).load()


@pytest.mark.parametrize(
    ("rows", "what", "found", "left"),
    [
        ([row("Oil", "Cats", "a"), row("Oil", "Sea", "a")], "style folders without any prompt",
         "1 of 2: Ink", 6),
        ([row("Oil", "Cats", "a"), row("Ink", "Sea", "a")], "images without a prompt",
         "1 of 7: Oil/Sea/1.png", 6),
        ([row("Oil", "Sea", "a"), row("Ink", "Sea", "a")], "images without a prompt",
         "5 of 7: Oil/Cats/1.png, Oil/Cats/2.png, Oil/Cats/3.png, ...", 2),
        ([row("Oil", "Cats", "a"), row("Ink", "Sea", "a"), row("Oil", "Sea", "a"), row("Oil", "cats", "a"),
          {"file_name": "1.png", "prompt": "a"}], "prompts without an image",
         "2 of 5: line 4 for Oil/cats/, line 5 for 1.png", 7),
    ],
)  # fmt: skip
def test_images_and_prompts_that_do_not_fit_are_refused_or_dropped(
    tmp_path: Path, image_folder, message, rows: list[Row], what: str, found: str, left: int
) -> None:
    root = image_folder([f"Oil/Cats/{number}.png" for number in range(1, 6)])
    image_folder(["Oil/Sea/1.png", "Ink/Sea/1.png"])
    for name in root.rglob("*.png"):
        name.write_bytes(b"not a picture")  # refused before any pixel is read
    prompts = save(tmp_path, *rows)
    problem = f"the folder {root} and the prompts {prompts} do not fit: {what}"
    with pytest.raises(DataError, match=message(problem, found, EXPECTED, FIX)):
        PromptedFolder(str(root), prompts).load()
    table = PromptedFolder(str(root), prompts, missing="drop").load()
    assert len(table.ids) == left


def test_dropped_images_leave_the_others_in_place(tmp_path: Path, image_folder, write_image) -> None:
    root = image_folder(["Ink/Sea/1.png", "Oil/Cats/1.png", "Oil/Sea/1.png"])
    prompts = save(tmp_path, row("Oil", "Sea", "a"), row("Ink", "Sea", "b"))
    table = PromptedFolder(str(root), prompts, missing="drop").load()
    assert table.ids == ("Ink/Sea/1.png", "Oil/Sea/1.png")
    written = write_image(tmp_path / "again.png", seed=2)
    assert (table.pixels([1])[0].permute(1, 2, 0).numpy() == written).all()


def without(column: str) -> str:
    return json.dumps({key: value for key, value in BOTH.items() if key != column})


@pytest.mark.parametrize(
    ("text", "problem", "found", "expected", "fix"),
    [
        ("{", "invalid JSON", "{", f"one object per line, such as {EXAMPLE}", "correct the line"),
        (without("prompt"), "no column 'prompt'", "the columns 'style', 'object'", "a column 'prompt'",
         FIX_LINE),
        (without("object"), "the prompt names no image", "the columns 'prompt', 'style'", PLACE, FIX_LINE),
        (without("style"), "the prompt names no image", "the columns 'prompt', 'object'", PLACE, FIX_LINE),
        ('{"file_name": "a.png"}', "no column 'prompt'", "the columns 'file_name'", "a column 'prompt'",
         FIX_LINE),
        (json.dumps(BOTH | {"prompt": " "}), "no text in the column 'prompt'", "' '", "a text",
         "fill in the line"),
        (json.dumps(BOTH | {"style": None}), "no text in the column 'style'", "None", "a text",
         "fill in the line"),
        (json.dumps(BOTH | {"object": 3}), "no text in the column 'object'", "3", "a text",
         "fill in the line"),
        ('{"file_name": "./Van Gogh/Cats/1.png", "prompt": "B"}', "the image has a prompt already",
         "Van Gogh/Cats/1.png, which line 1 has, too", "one row per image", "remove one of the two"),
    ],
)  # fmt: skip
def test_broken_rows_are_named(
    tmp_path: Path, image_folder, message, text: str, problem: str, found: str, expected: str, fix: str
) -> None:
    root = image_folder(["Van Gogh/Cats/1.png"])
    prompts = Path(save(tmp_path, {"file_name": "Van Gogh/Cats/1.png", "prompt": "A"}))
    prompts.write_text(f"{prompts.read_text()}\n{text}\n")
    pattern = message(f"{prompts}, line 3: {problem}", found, expected, fix)
    with pytest.raises(DataError, match=pattern):
        PromptedFolder(str(root), str(prompts)).load()


def test_missing_files_are_named(tmp_path: Path, image_folder, message) -> None:
    root = image_folder(["Van Gogh/Cats/1.png"])
    nowhere = tmp_path / "nowhere.jsonl"
    pattern = message(
        f"the file of prompts {nowhere} cannot be read",
        "No such file or directory",
        "a readable UTF-8 file",
        "check the path",
    )
    with pytest.raises(DataError, match=pattern):
        PromptedFolder(str(root), str(nowhere)).load()
    pattern = message(
        f"the image folder {tmp_path / 'none'} cannot be read",
        "nothing there",
        "a folder with images, such as <style>/<object>/1.jpg",
        "correct the path",
    )
    with pytest.raises(DataError, match=pattern):
        PromptedFolder(str(tmp_path / "none"), str(nowhere)).load()


@pytest.mark.skipif(
    "GUDA_UNLEARNCANVAS" not in os.environ,
    reason="GUDA_UNLEARNCANVAS does not name a folder with the prompts of UnlearnCanvas",
)
def test_the_real_prompts_of_unlearncanvas_fit_its_folders(image_folder) -> None:
    prompts = Path(os.environ["GUDA_UNLEARNCANVAS"], "eval_prompts.jsonl")
    rows = [json.loads(line) for line in prompts.read_text().splitlines()]
    root = image_folder([f"{row['style'].replace(' ', '_')}/{row['object']}/1.jpg" for row in rows])
    table = PromptedFolder(str(root), str(prompts)).load()
    assert len(table.ids) == 1200
    assert len(table.label_names) == 60
    assert table.labels is not None and table.prompts is not None
    found = set(zip(table.labels, table.prompts, strict=True))
    assert found == {(row["style"], row["prompt"]) for row in rows}
