"""Modules of the user's own: those in the working folder, where a class path names them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from guda_lightning import compat


class _OwnModules(MetaPathFinder):
    """Finds in the working folder what is found nowhere else, for class paths alone.

    With the folder on ``sys.path`` from the start, any file there that is called like a package which guda
    or one of its libraries tries to import would be run.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or not compat.imports_class_path():
            return None
        try:
            folder = os.getcwd()
        except FileNotFoundError:  # it is gone
            return None
        spec = PathFinder.find_spec(fullname, [folder])
        if spec is not None:
            sys.path.append(folder)  # what it imports in turn, also in worker processes
        return spec


def find_own_modules() -> None:
    """Let class paths name modules in the working folder, and take the folder off ``sys.path`` otherwise.

    ``python -m`` puts it there, first; processes that this one starts do not.
    """
    if not getattr(sys.flags, "safe_path", False) and sys.path[:1] == [_working_folder()]:
        del sys.path[0]
    os.environ["PYTHONSAFEPATH"] = "1"
    if not any(isinstance(finder, _OwnModules) for finder in sys.meta_path):
        sys.meta_path.append(_OwnModules())


def _working_folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None
