from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from markupsafe import escape
from PIL import Image

from guda_lightning.errors import ConfigError, MissingExtraError, NumericsError, QueryError
from guda_lightning.report.page_data import MAX_EXAMPLES, MAX_THUMBNAILS
from guda_lightning.report.placebo_section import Placebo
from guda_lightning.scores import Evidence, Rise, ScoreTable, Verdict
from guda_lightning.scores.summaries import group_summaries
from guda_lightning.scores.views import views
from guda_lightning.types import Queries

Table = Callable[..., ScoreTable]
Page = Callable[..., Path]
HOSTILE = "</script><img src=x onerror=alert(1)>&\"'"


def _data(path: Path) -> Any:
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text("utf-8"), re.S)[1])


def _views(path: Path) -> Any:
    return _data(path)["report"]["views"]


def _picture(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_the_page_holds_the_table(page: Page, score_table: Table) -> None:
    scores = torch.randn(5, 3, dtype=torch.float64) * 100
    stderr = torch.rand(5, 3, dtype=torch.float64)
    table = score_table(scores, stderr)
    path = page(table)
    data = _data(path)
    assert path.name == "index.html"
    assert data["report"]["queries"] == list(table.queries)
    assert data["report"]["groups"] == list(table.groups)
    (view,) = data["report"]["views"]
    torch.testing.assert_close(torch.tensor(view["scores"], dtype=torch.float64), scores, rtol=1e-7, atol=0)
    torch.testing.assert_close(torch.tensor(view["stderr"], dtype=torch.float64), stderr, rtol=1e-5, atol=0)
    assert view["summary"] == [
        {"mean": row.mean, "stderr": row.stderr, "top": row.top} for row in group_summaries(*views(table))
    ]
    assert data["tables"][0]["curves"][1] == {
        "group": "g1",
        "points": [[0, 0, 0], [10, 5, 0.1], [20, 10, 0.2]],
    }


def test_each_weighting_method_and_seed_is_a_view_in_the_same_order(page: Page, score_table: Table) -> None:
    scores = torch.arange(6.0).view(2, 3)
    shuffled = score_table(
        scores.flip(0).flip(1), weighting="uniform", queries=["q1", "q0"], groups=["g2", "g1", "g0"]
    )
    table = ScoreTable.concat(
        [score_table(scores), shuffled, score_table(-scores, method="guidance", seed=3)]
    )
    found = _views(page(table))
    assert [(view["method"], view["weighting"], view["seeds"]) for view in found] == [
        ("retrack", "elbo", [0]),
        ("retrack", "uniform", [0]),
        ("guidance", "elbo", [3]),
    ]
    assert found[0]["scores"] == found[1]["scores"] == scores.tolist()
    assert [row["mean"] for row in found[1]["summary"]] == [1.5, 2.5, 3.5]


def test_nothing_in_the_page_points_outside(page: Page, score_table: Table) -> None:
    text = page(score_table(torch.randn(3, 2))).read_text("utf-8")
    assert set(re.findall(r"\bhttps?://[^\"'\s)]+", text)) == {"http://www.w3.org/2000/svg"}  # a namespace
    assert {link for link in re.findall(r'(?:src|href)="([^"]*)"', text) if not link.startswith("#")} == {
        "data:,"
    }
    assert "url(" not in text and "@import" not in text and "fetch(" not in text


def test_only_the_pages_own_script_and_style_may_run(page: Page, score_table: Table) -> None:
    text = page(score_table(torch.randn(3, 2))).read_text("utf-8")
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("script", "style"):
        content = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        assert len(content) == 1
        digest = base64.b64encode(hashlib.sha256(content[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_names_are_escaped_everywhere(page: Page, score_table: Table) -> None:
    table = score_table(torch.randn(1, 2), groups=[HOSTILE, "other"], queries=[HOSTILE])
    path = page(table, title=HOSTILE, facts={HOSTILE: HOSTILE})
    assert "<img" not in path.read_text("utf-8")
    data = _data(path)
    report = data["report"]
    assert report["groups"][0] == report["queries"][0] == data["tables"][0]["curves"][0]["group"] == HOSTILE


def test_verdicts_have_a_section_and_a_mark(page: Page, score_table: Table) -> None:
    evidence = Evidence(Rise(8.0, 0.1, 0.2), Rise(0.3, 0.1, 0.0))
    verdicts = {
        "a": Verdict("valid", "all is well", evidence),
        HOSTILE: Verdict("invalid", HOSTILE, evidence),
    }
    table = replace(score_table(torch.randn(2, 2), groups=["a", HOSTILE]), verdicts=verdicts)
    path = page(table)
    text, name = path.read_text("utf-8"), str(escape(HOSTILE))
    assert '<section id="verdicts"' in text
    rows = re.findall(r'<td class="(\w+)">\1</td><td class="why">(.*?)</td>', text)
    assert rows == [("invalid", name), ("valid", "all is well")]  # the worst first
    marks = _views(path)[0]["verdicts"]
    assert marks == [{"grade": v.grade, "reason": v.reason} for v in verdicts.values()]
    # Another method's counterfactuals are other ones: the marks change with the method.
    fine = {"a": Verdict("doubtful", "so so", evidence)}
    other = replace(score_table(torch.randn(2, 2), groups=["a", HOSTILE], method="guidance"), verdicts=fine)
    both = page(table, beside=[other])
    assert [view["verdicts"] for view in _views(both)] == [
        marks,
        [{"grade": "doubtful", "reason": "so so"}, None],
    ]
    assert "guidance, seed 0: Verdicts on 1 counterfactuals: 1 doubtful." in both.read_text("utf-8")
    plain = page(score_table(torch.randn(2, 2)))
    assert '<section id="verdicts"' not in plain.read_text("utf-8")
    assert _views(plain)[0]["verdicts"] == []


@pytest.mark.parametrize("channels", [1, 3])
def test_small_pictures_are_stored_exactly(page: Page, score_table: Table, channels: int) -> None:
    pixels = torch.randint(0, 256, (2, channels, 8, 8))
    images = pixels / 127.5 - 1
    data = _data(page(score_table(torch.randn(2, 2)), queries=Queries(("q1", "q0"), images)))
    picture = _picture(data["pictures"][0])  # q0 is the second of the given pictures
    found = torch.tensor(list(picture.tobytes())).view(8, 8, channels).permute(2, 0, 1)
    assert torch.equal(found, pixels[1])
    assert data["pixelated"]


def test_large_pictures_shrink(page: Page, score_table: Table) -> None:
    images = torch.zeros(1, 3, 512, 256)
    examples = {"g0": torch.zeros(5, 3, 512, 256)}
    data = _data(page(score_table(torch.randn(1, 2)), queries=Queries(("q0",), images), examples=examples))
    assert _picture(data["pictures"][0]).size == (104, 208)
    assert [_picture(uri).size for uri in data["examples"][0]] == [(36, 72)] * MAX_EXAMPLES
    assert data["examples"][1] == []
    assert not data["pixelated"]


def test_sixty_four_large_queries_stay_below_three_megabytes(page: Page, score_table: Table) -> None:
    scores = torch.randn(64, 10)
    table = ScoreTable.concat([score_table(scores), score_table(scores, weighting="uniform")])
    noise = torch.rand(64, 3, 512, 512) * 2 - 1  # the worst case of compression
    examples = {group: noise[:3] for group in table.groups}
    path = page(table, queries=Queries(table.queries, noise), examples=examples)
    assert path.stat().st_size < 3e6


def test_pictures_are_limited_and_the_page_says_so(page: Page, score_table: Table) -> None:
    path = page(score_table(torch.randn(MAX_THUMBNAILS + 5, 2)))
    pictures = _data(path)["pictures"]
    assert None not in pictures[:MAX_THUMBNAILS]
    assert pictures[MAX_THUMBNAILS:] == [None] * 5
    text = re.sub(r"\s+", " ", path.read_text("utf-8"))
    assert (
        f"pictures of the first {MAX_THUMBNAILS} queries are included; the other 5 are shown by name" in text
    )


def test_sections_without_content_are_left_out(page: Page, score_table: Table) -> None:
    text = page(score_table(torch.randn(1, 1)), curves=[], facts={}, examples={}).read_text("utf-8")
    assert 'href="#curves"' not in text and 'href="#facts"' not in text


def test_queries_that_a_placebo_passed_are_told_from_those_that_none_tested(
    page: Page, score_table: Table
) -> None:
    both = ScoreTable.concat([score_table(torch.randn(2, 2), weighting=name) for name in ("elbo", "uniform")])
    found = _views(page(both, placebo=Placebo([], {"elbo": frozenset()})))
    assert [view["unattributable"] for view in found] == [[False, False], []]


def test_an_existing_page_is_replaced(page: Page, score_table: Table) -> None:
    page(score_table(torch.randn(2, 2)), title="first")
    path = page(score_table(torch.randn(2, 2)), title="second")
    assert "<h1>second</h1>" in path.read_text("utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]


def test_a_query_without_picture_is_refused(page: Page, score_table: Table) -> None:
    message = (
        "query 'q1' has scores but no picture\n"
        "  found:    2 of 3 scored queries without a picture\n"
        "  expected: a picture for every scored query\n"
        "  fix:      report with the queries that were scored"
    )
    with pytest.raises(QueryError, match=f"^{re.escape(message)}$"):
        page(score_table(torch.randn(3, 2)), queries=Queries(("q0",), torch.zeros(1, 1, 8, 8)))


def test_views_that_do_not_score_the_same_pairs_are_refused(page: Page, score_table: Table) -> None:
    table = ScoreTable.concat([score_table(torch.randn(3, 2)), score_table(torch.randn(2, 2), seed=1)])
    message = (
        "what is shown together must score the same queries under the same groups\n"
        "  found:    2 queries and 2 groups for retrack, weighting elbo, seed 1\n"
        "  expected: 3 queries and 2 groups\n"
        "  fix:      score all of them with guda attribute, or show this part by itself"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        page(table)


def test_an_empty_table_is_refused(page: Page, score_table: Table) -> None:
    message = (
        "there is nothing to report\n"
        "  found:    a score table without rows\n"
        "  expected: at least one query and one group\n"
        "  fix:      score queries with guda attribute"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        page(score_table(torch.zeros(0, 2)), queries=Queries((), torch.zeros(0, 1, 8, 8)))


def test_a_curve_that_is_not_finite_is_refused(page: Page, score_table: Table) -> None:
    message = (
        "the influence of group 'g0' at step 7 is not a number\n"
        "  found:    nan on its own images, 1.0 on others\n"
        "  expected: finite numbers\n"
        "  fix:      unlearn that group again with a smaller learning rate"
    )
    curves = [{"group": "g0", "step": 7, "own": float("nan"), "other": 1.0}]
    with pytest.raises(NumericsError, match=f"^{re.escape(message)}$"):
        page(score_table(torch.randn(1, 2)), curves=curves)


def test_the_page_needs_jinja_only(page: Page, score_table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("altair", "vl_convert"):
        monkeypatch.setitem(sys.modules, module, None)
    table = score_table(torch.randn(1, 2))
    assert page(table).is_file()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"^jinja2 is not installed\n"):
        page(table)
