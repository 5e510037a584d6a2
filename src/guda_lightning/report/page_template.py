"""The template of a page: HTML, style and script in one text, which loads nothing from the network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from guda_lightning.errors import MissingExtraError

_SCRIPTS = ("page.js", "charts.js", "query.js", "reader.js")  # one script, in this order


def render(data: Mapping[str, Any], **values: Any) -> str:
    """The text of a page.

    Args:
        data: What the page's script reads, as JSON values.
        **values: What the template shows.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    text: str = _template().render(**values, **_assets(data))
    return text


def _template() -> Any:
    try:
        import jinja2  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("jinja2", "report") from error
    return _compiled()


@cache
def _compiled() -> Any:
    """Compiling takes most of the time of a page, and a process may write many."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),  # of the parts that the page includes
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("page.html.j2")


def _assets(data: Mapping[str, Any]) -> dict[str, Any]:
    """The parts that go into the page as they are, and the hashes by which the browser lets them in."""
    from markupsafe import Markup

    style, script = _file("page.css"), "\n".join(map(_file, _SCRIPTS))
    # Inside a script element only "<" could end the data early.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace(
        "<", "\\u003c"
    )
    return {
        "style": Markup(style),
        "script": Markup(script),
        "data": Markup(text),
        "style_hash": _csp_hash(style),
        "script_hash": _csp_hash(script),
    }


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _file(name: str) -> str:
    return resources.files("guda_lightning.report").joinpath(name).read_text("utf-8")
