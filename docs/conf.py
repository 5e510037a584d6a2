"""Sphinx configuration; `make docs` builds the site with warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.ext.autosummary import autosummary_toc

from guda_lightning import __version__

if TYPE_CHECKING:
    from docutils.nodes import document
    from sphinx.application import Sphinx

project = "guda-lightning"
author = "The guda-lightning authors"
copyright = author
release = version = __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "reference",  # what commands.md and configuration.md leave to be generated
]
exclude_patterns = ["_build", "_ext"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"guda-lightning {__version__}"

nb_execution_mode = "off"  # a test executes notebooks; their outputs are those of the demo

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
# A public name has two pages, where it is imported from and where it is written: a bare one leads to either.
suppress_warnings = ["ref.python"]
autodoc_inherit_docstrings = False  # Lightning's docstrings use roles that exist in its own site only
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes of dataclasses are documented once, in the class docstring


def keep_tables(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Show Markdown tables in docstrings as they stand: they read well in the source, but are no RST."""
    shown: list[str] = []
    for line, before in zip(lines, ["", *lines], strict=False):
        starts, ends = line.startswith("|"), before.startswith("|")
        if starts and not ends:
            shown += ["::", ""]
        elif ends and not starts:
            shown.append("")
        shown.append(f"    {line}" if starts else line)
    lines[:] = shown


def leave_modules_out_of_the_sidebar(app: Sphinx, doctree: document) -> None:
    """Four hundred entries on each of as many pages serve nobody, and take most of the time of a build."""
    for node in list(doctree.findall(autosummary_toc)):
        node.parent.remove(node)


def setup(app: Sphinx) -> None:
    # Before sphinx collects the entries of the sidebar, at 500.
    app.connect("doctree-read", leave_modules_out_of_the_sidebar, priority=400)
    app.connect("autodoc-process-docstring", keep_tables)
