"""The documentation: links lead somewhere, commands exist, code is code, messages are ours."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest
import yaml

import guda_lightning
from guda_lightning.cli.candidates import candidates
from guda_lightning.cli.commands import COMMANDS, Stage, find
from guda_lightning.cli.configs import shipped
from guda_lightning.cli.inputs import Inputs
from guda_lightning.cli.refusals import refuse_early

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("callbacks/*.md")])
PAGES = [page for page in PAGES if not {"_build", "api_modules"} & {*page.parts}]
FENCE = re.compile(r"^( *)```\{?(\w+)[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
FOLDERS = {name.partition("/")[0] for name in shipped() if "/" in name}
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def reference() -> ModuleType:
    """What writes the generated parts of the site."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "_ext" / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def texts() -> dict[Path, str]:
    """Every page as the site shows it."""
    fill = reference().fill
    return {page: fill(page.read_text("utf-8")) for page in PAGES}


def blocks(text: str, *languages: str) -> Iterator[str]:
    for _, language, content in FENCE.findall(text):
        if language in languages:
            yield textwrap.dedent(content)


def anchors(text: str) -> set[str]:
    """What GitHub and MyST call the headings of a page."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found | set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


def test_links_lead_somewhere(texts: dict[Path, str]) -> None:
    broken = []
    for page, text in texts.items():
        for target in LINK.findall(CODE.sub("", text)):
            url = urlsplit(target)
            if url.scheme:
                assert url.scheme in ("http", "https", "mailto") and (url.netloc or url.path), target
                continue
            to = page if not url.path else (page.parent / url.path).resolve()
            there = to.exists() and (not url.fragment or url.fragment in anchors(texts.get(to, "")))
            if not there:
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_python_is_python(texts: dict[Path, str]) -> None:
    count = 0
    for page, text in texts.items():
        for block in blocks(text, "python"):
            compile(block, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            count += 1
    assert count > 10


def test_yaml_is_yaml(texts: dict[Path, str]) -> None:
    count = 0
    for text in texts.values():
        for block in blocks(text, "yaml"):
            assert yaml.safe_load(block) is not None
            count += 1
    assert count > 50


def lines(text: str) -> Iterator[list[str]]:
    """The command lines of a page, words without comments."""
    for block in blocks(text, "console"):
        for line in re.findall(r"^\$ (.+(?:\\\n.+)*)$", block, re.MULTILINE):
            words = shlex.split(line.replace("\\\n", " "), comments=True)
            while words and re.fullmatch(r"\w+=.*", words[0]):  # variables of the environment
                words.pop(0)
            yield words


def refuse(words: list[str]) -> None:
    """Refuse a command of guda that does not exist, or one with an option or a shipped file that does not."""
    name, *arguments = words
    for flag, file in pairwise(arguments):
        if flag == "-c" and file.removeprefix("configs/").partition("/")[0] in FOLDERS:
            assert file.removeprefix("configs/") in shipped(), file
    if name in ("--help", "--version") or not arguments:
        return
    command = find(name)
    if isinstance(command, Stage):
        rest = [one for one in arguments if not one.endswith(("yaml", "yml")) and one != "-c"]
        refuse_early(command, Inputs.of(name, [*rest, "--print_config"]))
        return
    stages = [one.name for one in COMMANDS if isinstance(one, Stage)] if name == "run" else []
    known = {flag for one in (name, *stages) for flag in candidates([one, "--"])}
    flags = {one.partition("=")[0] for one in arguments if one.startswith("--")}
    assert flags <= known, (words, flags - known)


def test_commands_exist(texts: dict[Path, str]) -> None:
    made = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    count = 0
    for text in texts.values():
        for words in lines(text):
            if words[:1] == ["guda"] and "..." not in words:
                refuse(words[1:])
                count += 1
            elif words[:1] == ["make"]:
                assert words[1] in made, words
    assert count > 80


def test_titles_of_troubleshooting_are_messages() -> None:
    templates = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [one.value if isinstance(one, ast.Constant) else None for one in node.values]
                fixed = "".join(str(one) for one in parts if one is not None)
                if len(re.findall(r"\w+", fixed)) >= 1 and "\n" not in fixed:
                    pattern = "".join(".+" if one is None else re.escape(str(one)) for one in parts)
                    templates.add(re.compile(pattern))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                templates.add(re.compile(re.escape(node.value)))
    text = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    titles = re.findall(r"^### (.+)$", text, re.MULTILINE)
    wide = [one for one in templates if len(re.sub(r"\.\+|\W", "", one.pattern)) >= 5]
    assert len(titles) > 30
    assert [title for title in titles if not any(one.fullmatch(title) for one in wide)] == []


def test_every_public_name_is_in_the_overview() -> None:
    text = (ROOT / "docs" / "api.md").read_text("utf-8").partition("<!-- generated: public -->")[0]
    named = set(re.findall(r"`~guda_lightning\.(\w+)`", text))
    assert set(guda_lightning.__all__) - {"__version__"} <= named


def test_the_reference_holds_every_command_option_and_file() -> None:
    written = reference()
    commands, configs = written.commands(), written.configs()
    assert re.findall(r"^### guda (\w+)$", commands, re.MULTILINE) == [one.name for one in COMMANDS]
    assert re.findall(r"^#### (\S+)$", configs, re.MULTILINE).__len__() == len(shipped())
    rows = [line for line in commands.splitlines() if line.startswith("| `--")]
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows if "what it does" not in row} <= {4, 5}
    assert "| `--classifier.held_out` | `float` = `0.1` |" in commands
    assert "| `--until` | `'steps' or 'predicted'` = `'steps'` |" in commands
    public = written.public()
    assert all(f"guda_lightning.{name}\n" in public for name in guda_lightning.__all__ if name[0].isupper())
