"""What a user installs with guda: licences that ask for a notice, or of MPL files alone for more."""

from __future__ import annotations

import re
from importlib import metadata

from packaging.requirements import Requirement

EXTRAS = ("app", "dashboard", "digits", "report", "text")
PERMISSIVE = re.compile(r"Apache|\bBSD\b|0BSD|\bMIT\b|MIT-CMU|PSF|\bISC\b|MPL")


def licences(name: str, extras: tuple[str, ...], found: dict[str, str]) -> None:
    """Collect the licences of a package and of all that it requires, as their metadata state them."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in found:
        return
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:  # for another system, as its marker would say
        return
    about = package.metadata
    classifiers = [one for one in about.get_all("Classifier") or [] if one.startswith("License ::")]
    found[name] = about.get("License-Expression") or "; ".join(classifiers) or str(about.get("License"))
    for text in package.requires or []:
        needed = Requirement(text)
        if needed.marker is None or any(needed.marker.evaluate({"extra": one}) for one in ("", *extras)):
            licences(needed.name, tuple(needed.extras), found)


def test_all_that_is_installed_may_be_used_by_anybody() -> None:
    found: dict[str, str] = {}
    licences("guda-lightning", EXTRAS, found)
    assert {"torch", "lightning", "diffusers", "wandb", "starlette"} <= found.keys()
    odd = {name: text[:80] for name, text in found.items() if "GPL" in text or not PERMISSIVE.search(text)}
    assert not odd
