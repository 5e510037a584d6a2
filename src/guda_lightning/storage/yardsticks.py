"""Yardsticks: run folders with an oracle, packed, that come with guda."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from guda_lightning.errors import ConfigError, StoreError, did_you_mean
from guda_lightning.storage.files import atomic_folder, canonical_json, read_json, write_atomic
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.locks import locked
from guda_lightning.storage.seals import refuse_damaged_folder
from guda_lightning.storage.weights_record import RECORD

LIMIT = 8 * 2**20  # bytes of an archive, as all of them come with every installation
CONFIG = "yardstick.yaml"  # in the run folder, for all stages
_FORMAT = 2  # of format 1 nothing is sealed
_NEEDED = ("archive", "config", "images", "places", "title")  # of a card, to unpack it
_CARD = "yardstick.json"  # in the run folder
_TRAINER = {"devices": 1, "logger": False, "limit_val_batches": 0, "num_sanity_val_steps": 0}


@dataclass(frozen=True)
class Yardstick:
    """A packed run folder: ``NAME.json``, its card, beside ``NAME.tar.xz``.

    The archive holds the full model, the queries, the oracle's score tables and the squared errors that they
    derive from, but no weights of the oracle. Everything that works in a run folder works where it is
    unpacked. The configuration on a card names classes, which are imported and run: use nobody's card whose
    code you would not run.

    Attributes:
        path: The card.
        card: What it says: data, groups, training process, commands, machine, date, seconds, agreement.
    """

    path: Path
    card: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name, which is that of the card."""
        return self.path.stem

    @property
    def archive(self) -> Path:
        """The packed run folder."""
        return self.path.with_suffix(".tar.xz")

    @property
    def images(self) -> str | None:
        """What file of images ``unpack`` needs; None where the data come with a library."""
        needed: str | None = self.card["images"] and self.card["images"]["what"]
        return needed

    @classmethod
    def find(cls, name: str) -> Yardstick:
        """The yardstick of a name, or of the path of a card.

        Raises:
            ConfigError: There is none.
            StoreError: The card cannot be read.
        """
        files = shipped()
        if name in files:
            return cls.open(files[name])
        if name.endswith(".json") and Path(name).is_file():
            return cls.open(Path(name))
        raise ConfigError(
            f"there is no yardstick {name!r}",
            found=name,
            expected=f"{', '.join(files) or 'none comes with this installation'}; or the path of a card",
            fix=did_you_mean(name, files, "choose one of these"),
        )

    @classmethod
    def open(cls, path: Path) -> Yardstick:
        """Read a card.

        Raises:
            StoreError: It is damaged, or of another format.
        """
        card = read_json(path)
        if card.get("format") != _FORMAT:
            raise StoreError(
                f"{path} is no card that this version reads",
                found=f"format {card.get('format', 'unset')}",
                expected=f"format {_FORMAT}",
                fix="use the version of guda-lightning that wrote it",
            )
        if missing := [name for name in _NEEDED if name not in card]:
            raise StoreError(
                f"{path} is damaged",
                found=f"no entry {', '.join(missing)}",
                expected=f"the entries {', '.join(_NEEDED)}",
                fix="install guda-lightning again, or fetch both files of the yardstick again",
            )
        return cls(path, card)

    def unpack(self, root: Path, images: Path | None = None) -> bool:
        """Unpack into a run folder, unless it is there, and write RUN/yardstick.yaml, for all stages.

        Args:
            root: The run folder.
            images: The file of images, where the card asks for one.

        Returns:
            Whether anything was unpacked.

        Raises:
            ConfigError: Images are missing, or given and not needed.
            StoreError: The archive is damaged, or the folder holds something else.
        """
        self._refuse_images(images)
        if not self._refuse_other(root):
            with locked(root.parent, root):  # of two commands at once, the second one finds it there
                if not self._refuse_other(root):
                    self._unpack(root, images)
                    return True
        self._configure(root, root, images)
        return False

    def _unpack(self, root: Path, images: Path | None) -> None:
        archive = self._intact()
        with atomic_folder(root) as folder:
            with self._readable(), tarfile.open(fileobj=io.BytesIO(archive), mode="r:xz") as packed:
                packed.extractall(folder, filter="data")  # refuses what points out of the folder
            (folder / _CARD).write_text(self.path.read_text("utf-8"), "utf-8")
            self._configure(folder, root, images)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """What goes wrong in the block is the archive's fault, though it is the one that the card names."""
        try:
            yield
        except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
            raise StoreError(
                f"{self.archive} cannot be unpacked",
                found=f"{type(error).__name__}: {error}",
                expected="files within a run folder, as guda packs them",
                fix="ask whoever made the yardstick for another one",
            ) from error

    def _refuse_images(self, images: Path | None) -> None:
        if (self.images is None) != (images is None):
            raise ConfigError(
                f"the yardstick {self.name} {'has its images' if images else 'does not hold its images'}",
                found="no --data" if images is None else f"--data {images}",
                expected="no --data" if self.images is None else self.images,
                fix="leave out --data" if images else "pass --data FILE",
            )
        if images is not None and not images.exists():
            raise ConfigError(
                "the images do not exist",
                found=f"nothing at {images}",
                expected=self.images,
                fix="correct --data",
            )

    def _refuse_other(self, root: Path) -> bool:
        """Whether this yardstick is unpacked there already."""
        if not root.is_dir() or not any(root.iterdir()):
            return False
        there = root / _CARD
        found = read_json(there).get("archive") if there.is_file() else None
        if found != self.card["archive"]:
            raise StoreError(
                f"{root} holds something else than the yardstick {self.name}",
                found="a run folder or other files"
                if found is None
                else "another yardstick, or another version of it",
                expected="a folder that does not exist yet",
                fix="name another run folder, or remove this one",
            )
        return True

    def _intact(self) -> bytes:
        """The bytes of the archive, which are those that the card names."""
        expected = self.card["archive"]
        archive = self.archive.read_bytes() if self.archive.is_file() else None
        found = None if archive is None else hashlib.sha256(archive).hexdigest()
        if archive is None or found != expected["sha256"]:
            raise StoreError(
                f"{self.archive} is not the archive of its card",
                found="no such file"
                if archive is None
                else f"{len(archive)} bytes, sha256 {str(found)[:16]}",
                expected=f"{expected['bytes']} bytes, sha256 {expected['sha256'][:16]}",
                fix="install guda-lightning again, or fetch both files of the yardstick again",
            )
        return archive

    def _configure(self, folder: Path, root: Path, images: Path | None) -> None:
        """Write the configuration, and the same one into the full model's record."""
        config = json.loads(canonical_json(self.card["config"]))
        for option, name in self.card["places"].items():
            place(config, option, str((root / name).resolve()))
        if images is not None:
            place(config, self.card["images"]["option"], str(images.resolve()))
        trainer = {name: value for name, value in config["trainer"].items() if value is not None}
        written = {"run": str(root.resolve()), **config, "trainer": {**trainer, **_TRAINER}}
        text = yaml.safe_dump(written, sort_keys=False)
        if not (folder / CONFIG).is_file() or (folder / CONFIG).read_bytes() != text.encode():
            write_atomic(folder / CONFIG, text)
        full = folder / "full"
        record = FullRecord.from_file(full / RECORD)
        if record.config == config:
            return
        if folder == root:  # unpacked before: else what was damaged since would get a new seal
            refuse_damaged_folder(full, f"remove {root} and run the command again")
        replace(record, config=config).save(full, full)


def place(config: dict[str, Any], option: str, value: str) -> None:
    """Set a value that lies deep in a configuration, by the dotted name of its option."""
    *sections, name = option.split(".")
    for section in sections:
        config = config[section]
    config[name] = value


def pack(path: Path, files: Mapping[str, bytes], card: Mapping[str, Any]) -> Yardstick:
    """Write a card and its archive; equal files give equal bytes.

    Args:
        path: The card, ``NAME.json``.
        files: Contents of the files of the run folder, by their names in it.
        card: What the card says beside what tells the archive.

    Raises:
        StoreError: The archive is larger than what every installation should bring.
    """
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:xz", preset=9) as archive:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = len(files[name])
            archive.addfile(member, io.BytesIO(files[name]))
    packed = content.getvalue()
    if len(packed) > LIMIT:
        raise StoreError(
            f"the yardstick {path.stem} is too large",
            found=f"{len(packed)} bytes",
            expected=f"at most {LIMIT} bytes, as every installation brings it",
            fix="pack fewer oracle seeds or queries",
        )
    told = {"bytes": len(packed), "sha256": hashlib.sha256(packed).hexdigest()}
    yardstick = Yardstick(path, {**card, "format": _FORMAT, "archive": told})
    write_atomic(yardstick.archive, packed)
    write_atomic(path, canonical_json(yardstick.card, indent=2) + "\n")
    return yardstick


def shipped() -> dict[str, Path]:
    """The cards that come with guda by name, in a checkout as in an installed wheel."""
    root = Path(str(resources.files("guda_lightning.yardsticks")))
    return {path.stem: path for path in sorted(root.glob("*.json"))}
