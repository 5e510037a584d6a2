"""Which files are images: the same for training data and for queries."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from guda_lightning import notes
from guda_lightning.cli.main import main
from guda_lightning.data import (
    Grouping,
    HubDataset,
    ImageFolder,
    PromptedFolder,
    QueryFolder,
    Styled,
    image_files,
    read_prompts,
)
from guda_lightning.errors import ConfigError, DataError, GudaError, QueryError

USABLE = "images that Pillow opens; captions, archives and files of the system are ignored"
FIX = "convert, rename or remove what is named"
NO_PICTURE = "no picture in a format that Pillow opens"
SHAPE = (3, 6, 6)


@pytest.fixture(autouse=True)
def _as_in_a_new_command() -> None:
    notes.begin()


@pytest.fixture
def root(image_folder) -> Path:
    return image_folder(["cats/1.png", "dogs/1.png"])


def listed(root: Path) -> set[str]:
    """The images of a folder, which are the same for both uses."""
    names = ImageFolder(str(root)).load().ids
    suffixes = {name: os.path.splitext(name)[0] for name in names}
    assert set(QueryFolder(root, SHAPE).ids) <= {*suffixes, *suffixes.values()}
    assert len(QueryFolder(root, SHAPE)) == len(names)
    assert list(names) == sorted(names)
    return set(names)


def refused(root: Path, message, found: str, count: str = "1 file") -> None:
    """Both uses refuse the folder in the same words."""
    pattern = message(f"{root} has {count} that cannot be used", found, USABLE, FIX)
    with pytest.raises(DataError, match=pattern):
        ImageFolder(str(root)).load()
    with pytest.raises(QueryError, match=pattern):
        QueryFolder(root, SHAPE)


def test_names_that_look_hidden_or_private_are_kept(root: Path, write_image) -> None:
    names = {"__old/1.png", ".wip/1.png", "cats/.2.png", "cats/__3.png", "Cats/1.png", "cats /1 .png"}
    names |= {
        "train/1.png",
        "it's/é.png",
        "it's/e\u0301.png",
        "写真/\u3000１.png",
        "👨\u200d👩/1.png",
        "a.zip/1.png",
    }
    for name in names:
        write_image(root / name)
    assert listed(root) == {"cats/1.png", "dogs/1.png", *names}
    assert set(ImageFolder(str(root)).load().label_names) == {name.split("/")[0] for name in listed(root)}


def test_every_format_that_pillow_opens_is_an_image(root: Path) -> None:
    endings = (
        "jpg",
        "JPEG",
        "jfif",
        "webp",
        "avif",
        "bmp",
        "TIF",
        "gif",
        "ppm",
        "tga",
        "jp2",
        "ico",
        "qoi",
        "PnG",
    )
    for ending in endings:
        Image.new("RGB", (6, 6), "red").save(root / f"cats/of {ending}.{ending}")
    for name in ("as downloaded", "photo.v2", "1.png.orig"):
        Image.new("RGB", (6, 6)).save(root / "cats" / name, "PNG")
    found = listed(root)
    assert {f"cats/of {ending}.{ending}" for ending in endings} <= found
    assert {"cats/as downloaded", "cats/photo.v2", "cats/1.png.orig"} <= found
    assert set(QueryFolder(root, SHAPE).ids) >= {"cats/photo.v2", "cats/of PnG"}
    red = [name.startswith("cats/of ") for name in ImageFolder(str(root)).load().ids]
    pixels = ImageFolder(str(root)).load().pixels()[red].float().mean((0, 2, 3))
    assert pixels[0] > 250 and pixels[1:].max() < 5


def test_a_format_of_a_plug_in_is_an_image_from_then_on(
    root: Path, message, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "cats/1.own").write_bytes(b"own format")
    refused(root, message, f"'cats/1.own': {NO_PICTURE}")
    for table in ("ID", "OPEN", "EXTENSION"):
        monkeypatch.setattr(Image, table, getattr(Image, table).copy())
    Image.register_open(
        "OWN", lambda file, name: Image.new("RGB", (6, 6)), lambda prefix: prefix[:3] == b"own"
    )
    assert "cats/1.own" in listed(root)  # by its first bytes
    assert "cats/1.own" in QueryFolder(root, SHAPE).ids
    (root / "cats/1.png").unlink()
    Image.register_extension("OWN", ".own")
    assert "cats/1" in QueryFolder(root, SHAPE).ids
    assert ImageFolder(str(root)).load().pixels().shape == (2, 3, 6, 6)


@pytest.mark.parametrize(
    "start",
    [
        bytes(16), b"PK\3\4", b"\x7fELF", b"%PDF-1.7", b"\x80\4\x95", b"SQLite format 3\0", b"\x89HDF\r\n",
        b"RIFF\0\0\0\0AVI LIST", b"\x1a\x45\xdf\xa3", b"ID3\4", b"OggS", b"PAR1", b"import torch\n", b"\n",
        b"\0", b"\0\0\1\xb3", b"<svg xmlns", b"{}", b"BUFR", b"GRIB", b"\xff\xfe<\0", b"1,2,3\n",
        b"\0\0\0\x0cJXL \r\n",
    ],
)  # fmt: skip
def test_other_files_are_not_taken_for_images(tmp_path: Path, write_image, message, start: bytes) -> None:
    write_image(tmp_path / "1.png")
    (tmp_path / "other").write_bytes(start)
    refused(tmp_path, message, f"'other': {NO_PICTURE}")


def test_links_are_followed(root: Path, tmp_path: Path, write_image) -> None:
    pixels = write_image(tmp_path / "elsewhere/deep/2.png", seed=7)
    (root / "birds").symlink_to(tmp_path / "elsewhere")
    (root / "dogs/3.png").symlink_to(tmp_path / "elsewhere/deep/2.png")
    (root / "twice").symlink_to("birds")  # another name of a folder is no circle
    assert listed(root) == {"birds/deep/2.png", "cats/1.png", "dogs/1.png", "dogs/3.png", "twice/deep/2.png"}
    assert (ImageFolder(str(root)).load().pixels([0])[0].permute(1, 2, 0).numpy() == pixels).all()


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda root: (root / "dogs/up").symlink_to(root), "'dogs/up': a link to a folder that it lies in"),
        (lambda root: (root / "dogs/2.png").symlink_to("nothing"), "'dogs/2.png': a link to nothing"),
        (lambda root: (root / "birds").symlink_to("/nowhere"), "'birds': a link to nothing"),
        (lambda root: (root / "2.png").symlink_to("2.png"), "'2.png': Too many levels of symbolic links"),
        (lambda root: os.mkfifo(root / "dogs/2.png"), "'dogs/2.png': neither a file nor a folder"),
        (lambda root: (root / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42"), f"'a.mp4': {NO_PICTURE}"),
        (lambda root: (root / "a.heic").write_bytes(b"\0\0\0\x18ftypheic"), f"'a.heic': {NO_PICTURE}"),
        (lambda root: (root / "dogs/1.svg").write_text("<svg/>"), f"'dogs/1.svg': {NO_PICTURE}"),
        (lambda root: (root / "a.nii.gz").write_bytes(b"\x1f\x8b"), f"'a.nii.gz': {NO_PICTURE}"),
        (lambda root: (root / "dogs/1.DNG").write_bytes(b"II*\0"), "'dogs/1.DNG': a camera's raw file"),
        (lambda root: (root / "dogs/1").touch(), "'dogs/1': an empty file"),
        (lambda root: (root / "dogs/a\nb.png").touch(),
         "'dogs/a\\nb.png': a line break or control character in its name"),
        (lambda root: (root / "do\tgs").mkdir(), "'do\\tgs': a line break or control character in its name"),
        (lambda root: (root / "dogs/\udcff.png").touch(), "'dogs/\\udcff.png': a name that is no UTF-8"),
        (lambda root: (root / "d\udcff").mkdir(), "'d\\udcff': a name that is no UTF-8"),
    ],
)  # fmt: skip
def test_what_is_neither_an_image_nor_ignored_is_named(
    root: Path, message, spoil: Callable[[Path], None], found: str
) -> None:
    spoil(root)
    refused(root, message, found)


def test_a_folder_that_cannot_be_opened_is_named(
    root: Path, message, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def guarded(path: str):
        if path.endswith("dogs"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    refused(root, message, "'dogs': Permission denied")


def test_the_first_ten_of_many_are_named(root: Path, message) -> None:
    for number in range(12):
        (root / f"cats/{number:02}.mov").write_bytes(b"moov")
    lines = [f"'cats/{number:02}.mov': {NO_PICTURE}" for number in range(10)]
    refused(root, message, "\n            ".join([*lines, "and 2 more"]), "12 files")


def test_known_junk_is_ignored_and_counted_in_one_line(
    root: Path, write_image, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cats.ZIP", "cats/1.txt", "cats/1.npz", "cats/Thumbs.db", "cats/._1.png", "dogs/.gitkeep"):
        (root / name).write_bytes(b"junk")
    (root / "labels.csv").write_text("id,group\n")
    (root / "empty/.DS_Store").parent.mkdir()
    (root / "empty/.DS_Store").touch()
    for name in ("__MACOSX", ".ipynb_checkpoints", "dogs/@eaDir", ".cache", ".git", "#snapshot/x/cats"):
        write_image(root / name / "1.png")
    assert listed(root) == {"cats/1.png", "dogs/1.png"}
    assert capsys.readouterr().out == (
        f"{root}: ignored 14 files that are no images: 1 archive (cats.ZIP), "
        "2 caption or metadata files (cats/1.txt, labels.csv), "
        "4 system files (cats/._1.png, cats/Thumbs.db, dogs/.gitkeep, ...), "
        "6 system folders (#snapshot, .cache, .git, ...), 1 tensor file (cats/1.npz); "
        "without any image: empty\n"
    )  # once, although both uses have listed it


def test_files_that_are_read_as_something_else_are_not_called_ignored(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "metadata.jsonl").write_text('{"file_name": "./cats/1.png"}\n{"file_name": "dogs/1.png"}\n')
    (root / "record.json").write_text("{}")
    assert QueryFolder(root, SHAPE).ids == ("cats/1", "dogs/1")
    assert capsys.readouterr().out == ""
    prompts = root / "prompts.csv"
    prompts.write_text("file_name,prompt\ncats/1.png,a cat\ndogs/1.png,a dog\n")
    PromptedFolder(str(root), str(prompts)).load()
    assert "ignored 2 files that are no images: 2 caption or" in capsys.readouterr().out


def test_a_folder_of_nothing_but_ignored_files_says_so(tmp_path: Path, message) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/all.tar").touch()
    found = "1 file that is no image: 1 archive (cats/all.tar)"
    fix = "correct the path, or convert the images"
    layout = "one subfolder of images per group"
    problem = f"the image folder {tmp_path} has no images"
    with pytest.raises(DataError, match=message(problem, found, layout, fix)):
        ImageFolder(str(tmp_path)).load()
    problem = f"the folder {tmp_path} has no images"
    with pytest.raises(QueryError, match=message(problem, found, "at least one image", fix)):
        QueryFolder(tmp_path, SHAPE)


def test_a_group_without_any_file_is_named(root: Path, message, write_image) -> None:
    (root / "birds/young").mkdir(parents=True)
    (root / "ants").mkdir()
    pattern = message(
        f"the image folder {root} has groups without any file",
        "nothing in 'ants', 'birds'",
        "images in every subfolder",
        "add what is missing, or remove the folder",
    )
    with pytest.raises(DataError, match=pattern):
        ImageFolder(str(root)).load()
    assert len(QueryFolder(root, SHAPE)) == 2  # queries are not sorted into groups


def test_a_folder_of_images_is_no_hub_dataset(root: Path, message) -> None:
    pattern = message(
        f"the dataset {root} is a folder of images",
        "images without a table",
        "tables with a column of images, or what datasets saved",
        "take guda_lightning.data.ImageFolder as data.source, with this path",
    )
    with pytest.raises(DataError, match=pattern):
        HubDataset(str(root)).load()


def test_home_and_variables_are_written_out(
    root: Path, message, monkeypatch: pytest.MonkeyPatch, write_image
) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    monkeypatch.setenv("DATA", str(root.parent))
    (root.parent / "prompts.csv").write_text("file_name,prompt\ncats/1.png,a cat\ndogs/1.png,a dog\n")
    (root.parent / "groups.csv").write_text("id,group\ncats/1.png,old\n")
    for place in ("~", "$DATA", "${DATA}"):
        assert len(ImageFolder(f"{place}/images").load().ids) == 2
        assert len(QueryFolder(f"{place}/images", SHAPE)) == 2
        assert len(PromptedFolder(f"{place}/images", f"{place}/prompts.csv").load().ids) == 2
        assert len(Styled(ImageFolder(f"{place}/images"), styles=2).load().ids) == 4
        assert read_prompts(Path(f"{place}/prompts.csv")) == ["a cat", "a dog"]
        assert Grouping.from_metadata(f"{place}/groups.csv", ["cats/1.png"]).names == ("old",)
    monkeypatch.chdir(root.parent)
    write_image(root.parent / "$5/~/a.png")
    assert ImageFolder("$5").load().ids == ("~/a.png",)  # what exists is meant as it stands
    pattern = message(
        "the path '$NOWHERE/images' names an environment variable that is not set",
        "no value of NOWHERE",
        "a path, perhaps with ~ and with variables that have a value",
        "export NOWHERE=..., or write the path out",
    )
    for load in (lambda path: ImageFolder(path).load(), lambda path: QueryFolder(path, SHAPE)):
        with pytest.raises(ConfigError, match=pattern):
            load("$NOWHERE/images")
    assert issubclass(ConfigError, GudaError)


CONF = Path(__file__).parents[1] / "conf/digits.yaml"


def test_a_command_tells_what_it_does_to_images_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, queries = tmp_path / "data", tmp_path / "queries"
    for name in ("data/cats/1.png", "data/cats/2.png", "data/dogs/1.png", "data/dogs/2.png", "queries/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("LA", (8, 8), (9, len(name) * 9)).save(tmp_path / name)
    (data / "cats.zip").touch()
    (queries / "notes.txt").touch()
    source = "--data.init_args.source"
    arguments = [
        *("-c", str(CONF), "--run", str(tmp_path / "run"), "--trainer.max_steps", "1"),
        *(source, "guda_lightning.data.ImageFolder", f"{source}.init_args.path", str(data)),
        *("--data.init_args.batch_size", "2"),
    ]
    ignored = f"{data}: ignored 1 file that is no image: 1 archive (cats.zip)"
    blended = "images: transparency is blended onto white, as in cats/1.png"
    assert main(["fit", *arguments]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told.count(ignored) == told.count(blended) == 1
    similarity = ["--attributor", "guda_lightning.attribution.PixelSimilarity"]
    assert main(["attribute", *arguments, "--queries", str(queries), *similarity]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told.count(ignored) == told.count(blended) == 1
    both = f"{queries}: ignored 1 file that is no image: 1 caption or metadata file (notes.txt)"
    assert told.count(both) == 1


def test_a_folder_that_is_full_of_other_things_is_not_walked_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/1.xyz", "a/2.xyz", "b/1.xyz", "b/2.xyz", "c/1.xyz", "c/2.xyz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no picture")
    monkeypatch.setattr(image_files, "_ENOUGH", 3)
    with pytest.raises(QueryError, match=r" has more than 3 files that cannot be used\n") as refused:
        QueryFolder(tmp_path, SHAPE)
    assert len({name.split("/")[0] for name in str(refused.value).split("'")[1::2]}) == 2
