"""Mutated files and configurations: each is accepted or refused by an error of ours, never a traceback.

``make torture ARGS=fuzz`` tries ten thousand of them.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import re
import shutil
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from diffusers import DDPMPipeline, DDPMScheduler
from PIL import Image
from safetensors.torch import save_file

from guda_lightning.cli.main import main
from guda_lightning.counterfactuals import CounterfactualRecord
from guda_lightning.data import GroupDataModule, ImageFolder, Parquet, PromptedFolder, load_queries
from guda_lightning.diffusion import DiffusionModule, open_full
from guda_lightning.errors import GudaError
from guda_lightning.storage.data_identity import DataIdentity
from guda_lightning.storage.files import read_json, sha256_json
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.run_state import run_state
from guda_lightning.storage.runs import RunFolder
from toys import tiny_unet

CONF = Path(__file__).parent / "conf"
FORMATS = ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm", "ico", "tga", "jp2")
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        7,
        1.5,
        10**12,
        2**63,
        10**30,
        1e308,
        -1e308,
        float("inf"),
        float("nan"),
    ),
    *(
        "",
        " ",
        "null",
        "~",
        "1e5",
        "a" * 5000,
        "\x00",
        "é",
        "🙂",
        "../..",
        "/",
        ".",
        "${x}",
        "${oc.env:NO}",
        "a,b",
    ),
    *("torch.nn.Identity", "no.such.Class", "guda_lightning.DiffusionModule", "1" * 5000, "a\nb", "{", "- a"),
    *(
        [],
        {},
        [[]],
        {"a": {}},
        [None],
        {"class_path": "no.Class"},
        {"class_path": 1},
        {"init_args": {}},
        {1: 2},
    ),
)
Rng = random.Random


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        make: Writes a good example into an empty folder and returns the file to mutate.
        mutate: Changes that file, in place.
        use: What a user does with the folder.
    """

    make: Callable[[Path, Rng], Path]
    mutate: Callable[[Path, Rng], None]
    use: Callable[[Path], object]


def mutate_bytes(path: Path, rng: Rng) -> None:
    """Flips, cuts, repeats and overwrites, mostly near the head, where the structure of a file is."""
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        end = rng.choice((64, 512, len(data)))
        at = rng.randrange(max(1, min(end, len(data))))
        what = rng.randrange(7)
        if what == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif what == 1 and data:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x0A, 0x2C))
        elif what == 2:
            data[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\x40\0"))
        elif what == 3:
            del data[at : at + rng.choice((1, 2, 4, 64, 10**6))]
        elif what == 4:
            data[at:at] = data[max(0, at - 32) : at] * rng.choice((1, 2, 50))
        elif what == 5:
            data[at:at] = rng.randbytes(rng.choice((1, 3, 40)))
        elif rng.random() < 0.2:
            data = bytearray(
                rng.choice((b"", b"\xff\xfe", b"PK\x03\x04", b"\x1f\x8b", b"<html>", b"{}", bytes(99)))
            )
    path.write_bytes(data)


def mutate_text(path: Path, rng: Rng) -> None:
    """What editors, spreadsheets and slips of the hand do to lines, and now and then to bytes."""
    if rng.random() < 0.2:
        mutate_bytes(path, rng)
        return
    lines = path.read_text("utf-8").split("\n")
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(lines))
        what = rng.randrange(8)
        if what == 0:
            lines.pop(at) if len(lines) > 1 else None
        elif what == 1:
            lines.insert(at, rng.choice((lines[at], "", " ", ",", ",,,,", "\t", "#", "null", "[" * 9999)))
        elif what == 2:
            place = rng.randrange(len(lines[at]) + 1)
            odd = rng.choice(
                ('"', "'", ",", ";", "\t", "\r", "\0", "\\", "{", "}", ":", "é", "\ufeff", "\u2028")
            )
            lines[at] = lines[at][:place] + odd + lines[at][place:]
        elif what == 3:
            lines[at] = lines[at].replace(
                rng.choice((",", '"', ":", "a", "0")), rng.choice((";", "", "\t", "1" * 5000))
            )
        elif what == 4:
            lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
        elif what == 5:
            other = rng.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        else:
            lines[at] = lines[at].upper() if what == 6 else f" {lines[at]} "
    text = rng.choice(("\n", "\n", "\n", "\r\n", "\r")).join(lines)
    encoding = rng.choice(
        ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "utf-32")
    )
    path.write_bytes(text.encode(encoding, "replace"))


def mutate_tree(tree: Any, rng: Rng) -> Any:
    """A copy of nested dicts and lists with a few odd, missing, renamed or moved values."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = [(holder, key) for holder in _holders(tree) for key in _keys(holder)]
        if not places:
            return tree
        holder, key = rng.choice(places)
        what = rng.randrange(6)
        if what <= 2:
            holder[key] = copy.deepcopy(rng.choice(ODD))
        elif what == 3:
            del holder[key]
        elif what == 4 and isinstance(holder, dict):
            holder[rng.choice(("class_path", "x", f"{key}s", "init_args", "dict_kwargs", ""))] = holder.pop(
                key
            )
        else:
            from_, name = rng.choice(places)
            holder[key] = copy.deepcopy(from_[name]) if name in _keys(from_) else None
    return tree


def _holders(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict | list):
        yield tree
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _holders(value)


def _keys(holder: Any) -> list[Any]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


def mutate_json(path: Path, rng: Rng) -> None:
    """Values of a JSON file, or its text."""
    if rng.random() < 0.3:
        mutate_text(path, rng)
    else:
        path.write_text(json.dumps(mutate_tree(json.loads(path.read_text("utf-8")), rng)), "utf-8")


def mutate_yaml(path: Path, rng: Rng) -> None:
    """Values of a YAML file, or its text."""
    if rng.random() < 0.3:
        mutate_text(path, rng)
    else:
        tree = mutate_tree(yaml.safe_load(path.read_text("utf-8")), rng)
        path.write_text(yaml.safe_dump(tree, allow_unicode=True), "utf-8")


def pixels(rng: Rng, channels: int = 3) -> Image.Image:
    values = np.frombuffer(rng.randbytes(8 * 8 * channels), np.uint8).reshape(8, 8, channels)
    return Image.fromarray(values if channels > 1 else values[..., 0])


def folder_of_images(folder: Path, rng: Rng) -> Path:
    for group in ("a", "b"):
        (folder / "images" / group).mkdir(parents=True)
        for number in range(2):
            pixels(rng).save(folder / "images" / group / f"{number}.png")
    return folder / "images"


def make_image(folder: Path, rng: Rng) -> Path:
    suffix = rng.choice(FORMATS)
    target = folder_of_images(folder, rng) / "b" / f"2.{suffix}"
    mode = rng.choice(("RGB", "RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "I;16"))
    try:
        pixels(rng).convert("L" if mode == "I;16" else mode).convert(mode).save(target)
    except (OSError, ValueError):  # a mode that the format does not have
        pixels(rng).save(target)
    return target


def use_images(folder: Path) -> None:
    data = GroupDataModule(ImageFolder(str(folder / "images")), image_size=8)
    assert len(data.inputs) == 5 and set(data.grouping.names) == {"a", "b"}
    assert len(load_queries(folder / "images", (3, 8, 8), resize=True).ids) == 5


ODD_NAMES = (
    *(
        "null",
        "~",
        "1e5",
        "true",
        "own",
        "other",
        "image",
        "query",
        "all",
        "train",
        "test",
        "__a",
        ".a",
        "-a",
    ),
    *(
        " a",
        "a ",
        "a,b",
        "a+b",
        "a=b",
        "é",
        "e\u0301",
        "日本",
        "🙂",
        "a.b",
        "a'b",
        'a"b',
        "$HOME",
        "{x}",
        "[a]",
    ),
    *(
        "a\nb",
        "a\tb",
        "a\x1bb",
        "\u202ea",
        "\u200b",
        "x" * 200,
        "A",
        "*",
        "?",
        "%s",
        "<b>",
        "&amp;",
        "a;b",
        "#",
    ),
    *("._a.png", ".DS_Store", "__MACOSX", "Thumbs.db", "cats.zip", "a.txt", "a.json", "a.mp4", "a", "b"),
)


_IGNORED = re.compile(r"/__MACOSX/|/(\.DS_Store|Thumbs\.db|\._[^/]*|[^/]*\.(zip|txt|json))$")


def mutate_folder(path: Path, rng: Rng) -> None:
    """Odd names, links, copies, empty folders, and files where folders are expected."""
    for _ in range(rng.choice((1, 2, 4))):
        places = [path, *sorted(path.rglob("*"))]
        place, name = rng.choice(places), rng.choice(ODD_NAMES)
        parent = place if place.is_dir() and rng.random() < 0.5 else place.parent
        target = (path if place == path else parent) / name
        what = rng.randrange(6)
        with contextlib.suppress(OSError, shutil.Error):
            if what == 0 and place != path:
                place.rename(target)
            elif what == 1:
                target.symlink_to(rng.choice(places))
            elif what == 2:
                target.mkdir()
            elif what == 3:
                shutil.copy(rng.choice(sorted(path.rglob("*.png"))), target)
            elif what == 4:
                target.write_bytes(rng.choice((b"", b"text", b"PK\x03\x04")))
            elif (
                place != path
                and place.is_dir()
                and not target.parent.resolve().is_relative_to(place.resolve())
            ):
                shutil.copytree(place, target, symlinks=True)


def use_folder(folder: Path) -> None:
    """Every picture that is accepted is one, and every picture is accepted, in the group of its folder."""
    root = folder / "images"
    data = GroupDataModule(ImageFolder(str(root)), image_size=8)
    assert len(data.inputs) == len(data.ids)
    if any(link.is_symlink() and link.resolve() in link.parents for link in root.rglob("*")):
        return  # a folder inside itself
    files = [Path(base) / file for base, _, files in os.walk(root, followlinks=True) for file in files]
    whole = [file for file in files if file.exists()]  # rather than a link to nothing
    names = [file.relative_to(root).as_posix() for file in whole if file.read_bytes()[:4] == b"\x89PNG"]
    pictures = {name for name in names if not _IGNORED.search(f"/{name}")}
    assert set(data.ids) == pictures
    if any("/" in name for name in pictures):
        assert set(data.grouping.names) == {name.split("/")[0] for name in pictures}


def make_table(name: str) -> Callable[[Path, Rng], Path]:
    def make(folder: Path, rng: Rng) -> Path:
        ids = [
            path.relative_to(folder / "images").as_posix()
            for path in sorted(folder_of_images(folder, rng).rglob("*.png"))
        ]
        rows = [
            {"id": each, "file_name": each, "group": f"g{n % 2}", "prompt": f"a {n}"}
            for n, each in enumerate(ids)
        ]
        header = ",".join(rows[0])
        lines = [
            ",".join(map(str, row.values())) if name.endswith(".csv") else json.dumps(row) for row in rows
        ]
        (folder / name).write_text("\n".join([header] * name.endswith(".csv") + lines) + "\n", "utf-8")
        return folder / name

    return make


def use_groups(name: str) -> Callable[[Path], None]:
    def use(folder: Path) -> None:
        assert GroupDataModule(ImageFolder(str(folder / "images")), groups=str(folder / name)).grouping.names

    return use


def use_prompts(name: str) -> Callable[[Path], None]:
    def use(folder: Path) -> None:
        assert PromptedFolder(str(folder / "images"), str(folder / name)).load().prompts

    return use


def make_metadata(folder: Path, rng: Rng) -> Path:
    names = [
        path.relative_to(folder / "images").as_posix()
        for path in sorted(folder_of_images(folder, rng).rglob("*.png"))
    ]
    path = folder / "images" / "metadata.jsonl"
    path.write_text(
        "".join(json.dumps({"file_name": name, "label": 1, "prompt": "a"}) + "\n" for name in names), "utf-8"
    )
    return path


def make_parquet(folder: Path, rng: Rng) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = []
    for _ in range(4):
        file = io.BytesIO()
        pixels(rng).save(file, "png")
        images.append({"bytes": file.getvalue(), "path": None})
    pq.write_table(
        pa.table({"img": images, "label": [0, 1, 0, 1], "text": ["a", "b", "c", "d"]}), folder / "x.parquet"
    )
    return folder / "x.parquet"


def module() -> DiffusionModule:
    return DiffusionModule(tiny_unet(), DDPMScheduler(num_train_timesteps=50))


def make_checkpoint(folder: Path, rng: Rng) -> Path:
    path = folder / rng.choice(("x.ckpt", "x.pt", "x.safetensors"))
    if path.suffix == ".safetensors":
        save_file(dict(module().denoiser.state_dict()), path)
    else:
        torch.save({"state_dict": module().state_dict(), "hyper_parameters": {"path": Path("x")}}, path)
    return path


def make_pipeline(folder: Path, rng: Rng) -> Path:
    full = folder / "full"
    DDPMPipeline(tiny_unet(), DDPMScheduler(num_train_timesteps=50)).save_pretrained(full)
    return full / rng.choice(("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"))


def open_pipeline(folder: Path) -> None:
    open_full(folder / "full", module())


def open_checkpoint(folder: Path) -> None:
    open_full(next(path for path in folder.iterdir()), module())


FULL_RECORD = {
    "full_hash": "a" * 64,
    "schedule_hash": "b" * 64,
    "config": {"trainer": {"max_steps": 5}, "seed_everything": 0},
    "steps": 5,
    "seconds": 1.5,
    "network_evaluations": 10,
    "input_shape": [1, 8, 8],
    "complete": True,
    "format": 1,
}
STORED_RECORD = {
    "operator": "retrack",
    "members_hash": "a",
    "groups": ["3"],
    "seed": 0,
    "hparams": {},
    "full_hash": "a" * 64,
    "schedule_hash": "b" * 64,
    "grouping_hash": "d",
    "versions": {},
    "seconds": 1.0,
    "steps": 4,
    "network_evaluations": 10,
    "files": {"model.safetensors": "e"},
    "complete": True,
    "format": 1,
}


def make_full_record(folder: Path, rng: Rng) -> Path:
    path = folder / "run" / "full" / "record.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(FULL_RECORD))
    return path


def use_full_record(folder: Path) -> None:
    run = RunFolder(folder / "run")
    json.dumps(run_state(run).to_json())
    record = FullRecord.of_fit(run)
    record.refuse_unfinished(run.full)
    record.refuse_other_data(run.full, DataIdentity((1, 8, 8), "a" * 64, "b" * 64))
    json.loads(record.to_json())


def make_stored_record(folder: Path, rng: Rng) -> Path:
    path = folder / "run" / "store" / "x" / "record.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(STORED_RECORD))
    return path


def use_stored_record(folder: Path) -> None:
    """A record that claims to be whole: its hash is that of what it holds."""
    path = folder / "run" / "store" / "x" / "record.json"
    with contextlib.suppress(GudaError, ValueError):
        value = read_json(path)
        path.write_text(json.dumps({**value, "sha256": sha256_json(value)}))
    json.dumps(run_state(RunFolder(folder / "run")).to_json())
    record = CounterfactualRecord.from_file(path)
    assert record.key.folder_name and record.to_json()


def make_configuration(folder: Path, rng: Rng) -> Path:
    tree = yaml.safe_load((CONF / "digits.yaml").read_text("utf-8"))
    if rng.random() < 0.5:
        folder_of_images(folder, rng)
        source = {
            "class_path": "guda_lightning.data.ImageFolder",
            "init_args": {"path": str(folder / "images")},
        }
        tree["data"]["init_args"] |= {"source": source, "channels": 1, "batch_size": 2}
    (folder / "x.yaml").write_text(yaml.safe_dump(tree), "utf-8")
    return folder / "x.yaml"


def fit(folder: Path) -> None:
    command(
        "fit", "-c", str(folder / "x.yaml"), "--run", str(folder / "run"), "--trainer.fast_dev_run", "true"
    )


def make_options(folder: Path, rng: Rng) -> Path:
    """Options as a file of JSON, so that they are mutated like one."""
    options = [
        "--trainer.max_steps=2",
        "--seed_everything=1",
        "--data.init_args.limit=16",
        "--model.init_args.seed=3",
    ]
    options += ["--data.init_args.batch_size", "8", "--trainer.logger", "false", "--trainer.callbacks=null"]
    (folder / "x.json").write_text(json.dumps(options), "utf-8")
    return folder / "x.json"


def mutate_options(path: Path, rng: Rng) -> None:
    options = [str(option) for option in mutate_tree(json.loads(path.read_text("utf-8")), rng)]
    if rng.random() < 0.5 and options:
        at = rng.randrange(len(options))
        options[at] = options[at].partition("=")[0] + "=" + str(rng.choice(ODD))
    path.write_text(json.dumps(options), "utf-8")


def fit_with_options(folder: Path) -> None:
    options = json.loads((folder / "x.json").read_text("utf-8"))
    run = ["--run", str(folder / "run"), "--trainer.fast_dev_run", "true"]
    command("fit", "-c", str(CONF / "digits.yaml"), *options, *run)


def finished(folder: Path) -> Path:
    """A run folder of all stages, made once beside the folders of the inputs."""
    run = folder / "finished"
    if not run.exists():
        making = folder / "unfinished"
        shutil.rmtree(making, ignore_errors=True)  # of a process that was ended
        for stage in ("fit", "sample", "unlearn", "attribute"):
            command(stage, *_files(stage, CONF), "--run", str(making))
        making.rename(run)
    return run


def _files(stage: str, last: Path) -> list[str]:
    files = [CONF / "digits.yaml"] + ([] if stage == "fit" else [last / f"{stage}.yaml"])
    return [part for file in files for part in ("-c", str(file))]


def make_stage(stage: str) -> Callable[[Path, Rng], Path]:
    def make(folder: Path, rng: Rng) -> Path:
        shutil.copytree(finished(folder.parent), folder / "run")
        for made in {"sample": ["queries"], "unlearn": ["store"], "attribute": ["scores"]}[stage]:
            shutil.rmtree(folder / "run" / made)
        given = shutil.copy(CONF / f"{stage}.yaml", folder / f"{stage}.yaml")
        if stage == "unlearn":  # of ten groups, which take seconds
            given.write_text(given.read_text("utf-8") + "groups: 0,1\n", "utf-8")
        return given

    return make


def run_stage(stage: str) -> Callable[[Path], None]:
    return lambda folder: command(stage, *_files(stage, folder), "--run", str(folder / "run"))


def command(*arguments: str) -> None:
    """``guda`` in this process; its exit code 2 is a refusal, whose text must say what, or how to call it."""
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        code = main([*arguments, "--trainer.devices", "1"])  # more would start this program again
    if code:
        text = err.getvalue()
        assert code == 2 and "error: " in text and "\x1b" not in text and "Traceback" not in text, (
            code,
            text[-2000:],
        )
        raise GudaError(text, found="", expected="", fix="")


KINDS: dict[str, Kind] = {
    "folder": Kind(folder_of_images, mutate_folder, use_folder),
    "image": Kind(make_image, mutate_bytes, use_images),
    "groups.csv": Kind(make_table("g.csv"), mutate_text, use_groups("g.csv")),
    "groups.jsonl": Kind(make_table("g.jsonl"), mutate_text, use_groups("g.jsonl")),
    "prompts.csv": Kind(make_table("p.csv"), mutate_text, use_prompts("p.csv")),
    "prompts.jsonl": Kind(make_table("p.jsonl"), mutate_text, use_prompts("p.jsonl")),
    "metadata": Kind(make_metadata, mutate_text, lambda folder: load_queries(folder / "images", (3, 8, 8))),
    "parquet": Kind(
        make_parquet, mutate_bytes, lambda f: GroupDataModule(Parquet(str(f / "x.parquet"))).inputs
    ),
    "checkpoint": Kind(make_checkpoint, mutate_bytes, open_checkpoint),
    "pipeline": Kind(make_pipeline, mutate_json, open_pipeline),
    "full record": Kind(make_full_record, mutate_json, use_full_record),
    "stored record": Kind(make_stored_record, mutate_json, use_stored_record),
    "configuration": Kind(make_configuration, mutate_yaml, fit),
    **{
        stage: Kind(make_stage(stage), mutate_yaml, run_stage(stage))
        for stage in ("sample", "unlearn", "attribute")
    },
    "options": Kind(make_options, mutate_options, fit_with_options),
}


def attempt(kind: Kind, seed: int, folder: Path) -> str:
    """``accepted``, ``refused``, or the traceback of one input, which is left in the folder."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    kind.mutate(kind.make(folder, rng), rng)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow about what it reads all the same
            kind.use(folder)
    except GudaError:
        return "refused"
    except BaseException:
        return traceback.format_exc()
    return "accepted"
