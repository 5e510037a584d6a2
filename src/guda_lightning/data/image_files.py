"""Which files of a folder are images: one rule for training data and queries; docs/data.md states it."""

from __future__ import annotations

import os
import struct
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from guda_lightning.data.group_names import quoted
from guda_lightning.errors import GudaError
from guda_lightning.notes import tell_once

_IGNORED_SUFFIXES = {
    "archive": (".zip", ".tar", ".tgz", ".gz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar"),
    "caption or metadata file": (
        ".txt", ".caption", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".md", ".html", ".xml", ".yaml",
        ".yml", ".toml", ".xmp", ".aae", ".log",
    ),
    "tensor file": (".npz", ".npy", ".safetensors"),  # latents that other trainers keep beside the images
}  # fmt: skip
_KIND_OF_SUFFIX = {suffix: kind for kind, suffixes in _IGNORED_SUFFIXES.items() for suffix in suffixes}
_SYSTEM_FILES = {
    ".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", ".picasa.ini", "icon\r", ".directory", ".nomedia",
    ".localized", ".gitkeep", ".keep", ".gitignore", ".gitattributes", ".dvcignore", ".dropbox",
    ".dropbox.attr", "readme", "license",
}  # fmt: skip
_SYSTEM_FOLDERS = {
    "__macosx", ".ipynb_checkpoints", "__pycache__", ".git", ".svn", ".hg", ".cache", ".thumbnails", "@eadir",
    ".@__thumb", "#recycle", "@recycle", "$recycle.bin", "system volume information", "lost+found",
    ".spotlight-v100", ".trash", ".trashes", ".fseventsd", ".appledouble", ".temporaryitems", ".stfolder",
    ".stversions", ".dropbox.cache", ".picasaoriginals", ".huggingface", ".dvc", ".idea", ".vscode",
    ".tmp.driveupload", ".tmp.drivedownload",
    "#snapshot", "~snapshot", ".snapshot", ".snapshots", ".zfs",  # older copies of the images themselves
}  # fmt: skip
# Formats that Pillow tells from others and cannot decode.
_NOT_DECODED = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
# Raw files of cameras look like TIFF: Pillow would read the small preview inside.
_RAW_SUFFIXES = {
    ".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".kdc", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf",
    ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
}  # fmt: skip
_PREFIX = 16  # bytes by which Pillow tells formats apart
_SHOWN = 10  # files that an error names
_ENOUGH = 1000  # files that cannot be used: one is refused, and some folders, such as /proc, never end
_EXAMPLES = 3  # files of a kind that the line about ignored ones names


@dataclass(frozen=True)
class ImageFiles:
    """The images in a folder and in the folders inside it.

    Attributes:
        folder: The folder.
        names: Their paths inside the folder, with slashes, sorted.
        ignored: Paths of what is no image, by kind.
        empty: Folders right inside it without any file.
    """

    folder: Path
    names: tuple[str, ...]
    ignored: Mapping[str, tuple[str, ...]]
    empty: tuple[str, ...]

    @property
    def ignored_text(self) -> str:
        """What was ignored: ``2 files that are no images: 1 archive (cats.zip), ...``; empty for nothing."""
        if not self.ignored:
            return ""
        kinds = [f"{_counted(len(names), kind)} ({_some(names)})" for kind, names in self.ignored.items()]
        total = sum(map(len, self.ignored.values()))
        are = "is no image" if total == 1 else "are no images"
        return f"{_counted(total, 'file')} that {are}: {', '.join(kinds)}"

    def tell_ignored(self) -> None:
        """Tell the user, once a command, what was ignored, and which folders hold nothing else."""
        if self.ignored:
            ignored = [name for names in self.ignored.values() for name in names if "/" in name]
            without = sorted(_first_folders(ignored) - _first_folders(self.names))
            end = f"; without any image: {', '.join(map(shown, without))}" if without else ""
            tell_once(f"{shown(self.folder)}: ignored {self.ignored_text}{end}")


def list_image_files(folder: Path, error: type[GudaError], beside: Collection[Path] = ()) -> ImageFiles:
    """Find the images anywhere in a folder, links followed, without decoding any.

    Args:
        folder: The folder.
        error: What to raise.
        beside: Files that are read as something else, wherever they lie, and not worth a word.

    Raises:
        GudaError: A file is neither an image nor known to be none, or has a name that cannot be kept.
    """
    root = os.path.realpath(folder)
    walk = _Walk(folder, {os.path.relpath(os.path.realpath(path), root) for path in beside})
    if walk.unfit:
        many = len(walk.unfit) > _ENOUGH
        count = f"more than {_ENOUGH} files" if many else _counted(len(walk.unfit), "file")
        raise error(
            f"{shown(folder)} has {count} that cannot be used",
            found=reasons(walk.unfit),
            expected="images that Pillow opens; captions, archives and files of the system are ignored",
            fix="convert, rename or remove what is named",
        )
    filled = set[str]().union(*map(_first_folders, (walk.names, *walk.ignored.values())))
    return ImageFiles(
        folder,
        tuple(sorted(walk.names)),
        {kind: tuple(sorted(names)) for kind, names in sorted(walk.ignored.items())},
        tuple(sorted(set(walk.first_folders) - filled)),
    )


def ignored_kind(name: str, is_folder: bool = False) -> str | None:
    """What a file or folder of this name is known to be beside an image; None: perhaps an image."""
    lower = name.lower()
    if is_folder:
        return "system folder" if lower in _SYSTEM_FOLDERS or lower.startswith(".trash-") else None
    if lower in _SYSTEM_FILES or name.startswith("._"):
        return "system file"
    return None if lower.endswith(".nii.gz") else _KIND_OF_SUFFIX.get(os.path.splitext(lower)[1])


def unfit_name(name: str) -> str | None:
    """Why a name cannot be an id, which stands in tables and lists; None: it can."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "a name that is no UTF-8"
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
        return "a line break or control character in its name"
    return None


def image_suffixes() -> frozenset[str]:
    """How names of images end, in lower case: those of every format that Pillow and its plug-ins decode."""
    Image.init()
    suffixes = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in suffixes if name in Image.OPEN and name not in _NOT_DECODED)


def shown(name: object) -> str:
    """A name for people, with what cannot be printed written out."""
    text = str(name)
    return text if unfit_name(text) is None else repr(text)


def reasons(unfit: Mapping[str, str]) -> str:
    """The first ten files by name with their reasons, a line each."""
    lines = [f"{quoted(name)}: {reason}" for name, reason in sorted(unfit.items())[:_SHOWN]]
    more = len(unfit) - len(lines)
    return "\n            ".join([*lines, *([f"and {more} more"] if more else [])])


class _Walk:
    """What is in a folder.

    Attributes:
        names: The images.
        ignored: What is no image, by kind.
        unfit: Why other files cannot be used.
        first_folders: Folders right inside it.
    """

    def __init__(self, root: Path, own: Collection[str]) -> None:
        self.names: list[str] = []
        self.ignored: dict[str, list[str]] = {}
        self.unfit: dict[str, str] = {}
        self.first_folders: list[str] = []
        self._root, self._own, self._suffixes = root, own, image_suffixes()
        left: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
        while left and len(self.unfit) <= _ENOUGH:
            left += self._folder(*left.pop())

    def _folder(
        self, inside: str, above: frozenset[tuple[int, int]]
    ) -> Iterator[tuple[str, frozenset[tuple[int, int]]]]:
        """Sort the entries of a folder; yields the folders in it, each with the identities of those above."""
        path = os.path.join(self._root, inside)
        try:
            status = os.stat(path)
            here = (status.st_dev, status.st_ino)
            if here in above:
                self.unfit[inside] = "a link to a folder that it lies in"
                return
            with os.scandir(path) as entries:
                for entry in entries:
                    name = f"{inside}/{entry.name}" if inside else entry.name
                    if self._is_folder_to_walk(entry, name):
                        yield name, above | {here}
        except OSError as error:
            self.unfit[inside or "."] = error.strerror or str(error)

    def _is_folder_to_walk(self, entry: os.DirEntry[str], name: str) -> bool:
        if name in self._own:
            return False
        try:
            is_folder = entry.is_dir()
        except OSError as error:  # links in a circle
            self.unfit[name] = error.strerror or str(error)
            return False
        if kind := ignored_kind(entry.name, is_folder):
            self.ignored.setdefault(kind, []).append(name)
        elif why := unfit_name(entry.name) or (None if is_folder else self._unfit_file(entry)):
            self.unfit[name] = why
        elif not is_folder:
            self.names.append(name)
        else:
            if "/" not in name:
                self.first_folders.append(name)
            return True
        return False

    def _unfit_file(self, entry: os.DirEntry[str]) -> str | None:
        """Why a file is not taken as an image; None: it is."""
        try:
            if not entry.is_file():  # without a look at each file, where the folder says what they are
                return "neither a file nor a folder" if os.path.exists(entry.path) else "a link to nothing"
            suffix = os.path.splitext(entry.name)[1].lower()
            if suffix in self._suffixes:
                return None
            if suffix in _RAW_SUFFIXES:
                return "a camera's raw file"
            with open(entry.path, "rb") as file:
                prefix = file.read(_PREFIX)
        except OSError as error:
            return error.strerror or str(error)
        if not prefix:
            return "an empty file"
        return None if _is_recognised(prefix) else "no picture in a format that Pillow opens"


def _is_recognised(prefix: bytes) -> bool:
    """Whether a format begins so; those that have no such mark are known by their suffix alone."""
    for name, (_, test) in Image.OPEN.items():
        try:
            # A text, in place of True, says what Pillow was built without.
            if test is not None and name not in _NOT_DECODED and test(prefix) is True:
                return True
        except (IndexError, struct.error):  # fewer bytes than the test looks at
            continue
    return False


def _first_folders(names: Collection[str]) -> set[str]:
    return {name.partition("/")[0] for name in names}


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _some(names: Collection[str]) -> str:
    return ", ".join([*map(shown, list(names)[:_EXAMPLES]), *(["..."] if len(names) > _EXAMPLES else [])])
