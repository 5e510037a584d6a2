"""Training data that a stage wrote: they are refused where they have changed since."""

from __future__ import annotations

from pathlib import Path

from guda_lightning.storage.files import read_json
from guda_lightning.storage.seals import EMPTY, SEALS, refuse_damaged, refuse_damaged_folder

_MARK = EMPTY.rstrip("0").encode()


def refuse_changed(path: Path) -> None:
    """Refuse a table, or a folder of images, that differs from what a stage wrote; users' own have no seal.

    Args:
        path: A file or folder, in a sealed folder or not.

    Raises:
        StoreError: It has changed, or something of it is missing.
    """
    place = path.absolute()
    for folder in (place, *place.parents):
        seal = folder / SEALS
        if not seal.is_file() or _MARK not in seal.read_bytes():  # pictures of seals may have one, too
            continue
        fix = (
            f"restore it, or run the command that wrote {folder} again; where it was changed on purpose, "
            f"remove {SEALS} there"
        )
        refuse_damaged(seal, fix)
        part = "" if folder == place else place.relative_to(folder).as_posix()
        if any(part in ("", name) or name.startswith(f"{part}/") for name in read_json(seal)["files"]):
            refuse_damaged_folder(folder, fix, part)
        return
