"""``guda app`` in a real browser that may reach nothing but this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from PIL import Image
from playwright.sync_api import Locator, Page, expect, sync_playwright

from guda_lightning import GroupDataModule, open_run
from guda_lightning.cli.main import main
from guda_lightning.data import Digits, load_queries
from guda_lightning.report.pictures import data_uri
from guda_lightning.scores import Scoring
from guda_lightning.scores.views import views
from guda_lightning.storage.runs import RunFolder
from warm import Server

pytest.importorskip("uvicorn", reason="the extra app is not installed")
pytest.importorskip("starlette", reason="the extra app is not installed")

import guda_lightning.app.server  # noqa: F401  (processes that are forked have it)

CONF = Path(__file__).parents[1] / "conf"
CHROMIUM = shutil.which("chromium")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
QUIET += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
SCORING = Scoring(strata=48)  # as many as the timesteps of the toy that can be scored
BUSY = 300_000  # milliseconds: the machine may be


@pytest.fixture(scope="module")
def run(_finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a posterior, and what it draws without each group."""
    folder = Path(shutil.copytree(_finished_run, tmp_path_factory.mktemp("app") / "tiny"))
    without = ["--without", "all", "--operator", "guidance"]
    for stage, options in (("guide", []), ("sample", without)):
        files = ["-c", f"{CONF}/digits.yaml", "-c", f"{CONF}/{stage}.yaml", "--run", str(folder)]
        assert main([stage, *files, *options]) == 0
    return folder


@pytest.fixture(scope="module")
def site(run: Path, warm: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page; Ctrl-C ends the command cleanly in the end."""
    log = tmp_path_factory.mktemp("log") / "log.txt"
    with warm.process(log, main, ["app", str(run), "--port", "0"]) as process:
        while not (found := re.search(r"app: open (\S+) \(Ctrl-C ends it\)", log.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.01)
        yield found[1]
        os.kill(process.pid, signal.SIGINT)
        assert process.wait() == 0
        assert log.read_text() == f"app: reading {run}\n{found[0]}\n\napp: ended\n"


@pytest.fixture(scope="module")
def tab(site: str) -> Iterator[Page]:
    """The page; it asks for nothing elsewhere and reports no error."""
    if CHROMIUM is None:
        pytest.skip("no chromium on the path: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        tab = browser.new_page()
        tab.set_default_timeout(BUSY)
        expect.set_options(timeout=BUSY)
        asked: list[str] = []
        problems: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(site)
        yield tab
        browser.close()
    assert problems == []
    assert {url.split("?")[0] for url in asked if not url.startswith("data:")} == {
        f"{site}/",
        *(f"{site}/{name}" for name in ("app.css", "app.js", "answer")),
    }


def _answered(tab: Page) -> Locator:
    expect(tab.locator("#answer")).to_have_attribute("aria-busy", "false")
    expect(tab.locator("#progress")).to_be_hidden()
    return tab.locator("#groups")


def _png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_an_example_gets_the_scores_that_python_gives_it(tab: Page, run: Path) -> None:
    tab.get_by_role("button", name="sample-2").click()
    groups = _answered(tab)
    opened = open_run(run)
    view = views(opened.attribute(run / "queries" / "sample-2.png", by="guidance", scoring=SCORING))[0]
    scores, errors = view.scores[0].tolist(), view.stderr[0].tolist()
    order = sorted(range(10), key=lambda group: -scores[group])
    assert groups.locator(".name").all_inner_texts() == [view.groups[group] for group in order]
    numbers = [view.unit.number(scores[group], errors[group]) for group in order]
    assert groups.locator(".number").all_inner_texts() == numbers
    assert view.unit.why in groups.inner_text()
    top = view.groups[order[0]]
    assert tab.locator("#without h2").inner_text() == f"The picture without {top}"
    assert "from the very noise that this query was drawn from" in tab.locator("#without").inner_text()
    stored = load_queries(RunFolder(run).without_groups("guidance", top), (1, 8, 8)).images[2]
    assert tab.locator("#without img").last.get_attribute("src") == data_uri(stored, 8)
    data = GroupDataModule(Digits(), batch_size=16, limit=64)
    named = tab.locator("#nearest figcaption").all_inner_texts()
    members = {data.ids[row] for row in data.grouping.forget([top])}
    assert named and set(named) <= members
    assert tab.locator("#map h2").is_visible()
    assert "Untested" in tab.locator(".standing").inner_text()
    sizes = tab.locator("#answer img:visible").evaluate_all("all => all.map((one) => one.naturalWidth)")
    assert len(sizes) >= 3 + len(named) and set(sizes) == {8}


def test_a_file_of_another_size_and_then_a_damaged_one(tab: Page, tmp_path: Path) -> None:
    picture = Image.fromarray(torch.randint(256, (20, 30, 3), dtype=torch.uint8).numpy())
    tab.locator("#file").set_input_files(
        {"name": "<b>x.png", "mimeType": "image/png", "buffer": _png(picture)}
    )
    expect(tab.locator("#groups h2")).to_be_visible()
    _answered(tab)
    told = "<b>x.png, cropped around its centre and resized from 30 x 20 pixels to 8 x 8."
    assert tab.locator("#asked").inner_text() == told
    assert "draws exactly this picture in 25 steps" in tab.locator("#without").inner_text()
    dropped = tab.evaluate_handle(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "half.png", { type: "image/png" }));
            return data;
        }""",
        list(_png(picture)[:300]),
    )
    tab.locator("#drop").dispatch_event("drop", {"dataTransfer": dropped})
    expect(tab.get_by_role("alert")).to_be_visible()
    _answered(tab)
    told = ["the image cannot be read", "found", "image file is truncated", "expected"]
    told += ["a complete picture of 8 bits per channel", "fix", "repair or convert it"]
    assert tab.get_by_role("alert").inner_text().split("\n") == told
    assert not tab.locator("#groups").is_visible()
    tab.get_by_role("button", name="sample-0").click()
    expect(tab.locator("#asked")).to_have_text("sample-0, a query of this run.")
    expect(tab.locator("#nearest h2")).to_be_visible()
    _answered(tab)
    assert not tab.get_by_role("alert").is_visible()


def _post(
    site: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, list[dict[str, object]] | str]:
    with closing(HTTPConnection(urlsplit(site).netloc)) as connection:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        text = response.read().decode()
    lines = [json.loads(line) for line in text.splitlines()] if response.status == 200 else text
    return response.status, lines


def test_other_sites_and_other_names_are_refused(site: str) -> None:
    alone = (403, "guda app answers its own page alone")
    assert _post(site, "/answer?query=sample-0", Origin="http://elsewhere.example") == alone
    assert _post(site, "/answer?query=sample-0", Host="elsewhere.example") == alone


def test_what_is_too_large_animated_or_nothing_is_refused_in_words(site: str) -> None:
    frames, file = [Image.new("L", (8, 8), shade) for shade in (0, 255)], BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    for path, body, problem in (
        ("/answer?name=x&size=30000000", b"", "the file is too large"),
        ("/answer", b"", "the file is no picture that can be read"),
        ("/answer", file.getvalue(), "the file is animated"),
        ("/answer?query=sample-9", b"", "there is no such example"),
    ):
        status, lines = _post(site, path, body)
        assert status == 200 and isinstance(lines, list)
        assert lines[-1]["part"] == "error"
        assert f"<h2>{problem}</h2>" in str(lines[-1]["html"])
    assert _post(site, "/answer", bytes(21 * 2**20))[0] == 413
