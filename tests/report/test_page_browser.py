"""The page in a real browser, without a network."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Page, expect, sync_playwright

from guda_lightning.evaluation.result import Evaluation
from guda_lightning.functional.ranking import METRICS
from guda_lightning.report.agreement_table import agreement_table
from guda_lightning.report.exports import write_csv, write_json
from guda_lightning.report.glossary import GLOSSARY
from guda_lightning.report.map_pictures import COLOURS
from guda_lightning.report.placebo_section import Placebo
from guda_lightning.report.without_section import Without
from guda_lightning.scores import Evidence, Rise, ScoreRecord, ScoreTable, Verdict
from guda_lightning.scores.kinds import Likelihood
from guda_lightning.scores.maps import GroupMaps
from guda_lightning.scores.record import ScoringRecord
from guda_lightning.scores.summaries import UNDECIDED_BELOW, margins, with_error
from guda_lightning.scores.views import views
from guda_lightning.types import Queries

CHROMIUM = shutil.which("chromium")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = "<img src=x onerror=\"document.title='broken'\">"
GROUPS = [HOSTILE, *(f"style {i}" for i in range(1, 10))]

PATIENCE = 60_000  # milliseconds: the machine may be busy
expect.set_options(timeout=PATIENCE)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """A tab that is offline; the test fails if it asks for anything but the page, or reports an error."""
    context = browser.new_context(offline=True, viewport={"width": 1300, "height": 900})
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    requests: list[str] = []
    problems: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    yield tab
    context.close()
    assert problems == []
    asked = {url.partition("#")[0] for url in requests if not url.startswith(("data:", "blob:"))}
    assert len(asked) == 1 and asked.pop().startswith("file:///")


@pytest.fixture
def table(score_table: Callable[..., ScoreTable]) -> ScoreTable:
    def part(weighting: str, scale: float) -> ScoreTable:
        scores = torch.randn(64, 10, dtype=torch.float64) * scale
        return score_table(scores, torch.rand(64, 10) * scale / 2, groups=GROUPS, weighting=weighting)

    both = ScoreTable.concat([part("elbo", 30.0), part("uniform", 1e-3)])
    scoring = ScoringRecord(0, {"kind": "stratified"}, "within strata", "fp32")
    return replace(both, record=ScoreRecord(Likelihood(counterfactuals={}, sized=True), scoring=scoring))


def _shown(tab: Page) -> list[tuple[str, str, str]]:
    """Query, top group and number of every card; text_content also reads what is scrolled out of sight."""
    parts = (".id > span:first-child", ".row:first-child .name", ".row:first-child .number")
    return list(zip(*(tab.locator(f"#cards {part}").all_text_contents() for part in parts), strict=True))


def _expected(table: ScoreTable, weighting: str) -> list[tuple[str, str, str]]:
    (part,) = views(table.select(weighting=weighting))
    scores, stderr = part.scores, part.stderr
    top = scores.argmax(1).tolist()
    return [
        (query, part.groups[g], part.unit.number(float(scores[q, g]), float(stderr[q, g])))
        for q, (query, g) in enumerate(zip(part.queries, top, strict=True))
    ]


def test_every_query_shows_its_top_group_and_switching_the_weighting_changes_it(
    tab: Page, page: Callable[..., Path], table: ScoreTable
) -> None:
    tab.goto(page(table).as_uri())
    assert tab.title() == "Digits"
    tab.get_by_role("button", name="Show 16 more").click()
    elbo, uniform = _expected(table, "elbo"), _expected(table, "uniform")
    assert _shown(tab) == elbo
    assert tab.locator(".answer:visible").count() == 1
    assert tab.locator(".answer:visible").inner_text().endswith("nats (±: noise draws only).")
    assert "Size claimed: nats." in tab.locator("header .standing:visible").inner_text()
    card = tab.locator("#estimand dl:visible")
    assert "The size follows from how retrack is defined" in card.inner_text()
    tab.get_by_role("radio", name="Uniform").check(force=True)
    assert _shown(tab) == uniform != elbo
    assert "mean squared noise error" in tab.locator("#unit").inner_text()
    assert "nats" not in tab.locator(".answer:visible").inner_text()
    assert "denoises the query, all timesteps alike" in card.inner_text()


def test_choosing_a_group_leaves_the_queries_that_it_leads(
    tab: Page, page: Callable[..., Path], table: ScoreTable
) -> None:
    tab.goto(page(table).as_uri())
    group = "style 3"
    led = [row for row in _expected(table, "elbo") if row[1] == group]
    button = tab.locator("#groups button", has_text=group)
    button.focus()
    tab.keyboard.press("Enter")
    assert _shown(tab) == led
    assert button.get_attribute("aria-pressed") == "true"
    assert f"leads {len(led)} of 64" in button.inner_text()
    tab.get_by_role("button", name=f"led by {group}").click()
    assert len(_shown(tab)) == 48


def test_finding_and_sorting_and_undecided_queries(
    tab: Page, page: Callable[..., Path], table: ScoreTable
) -> None:
    tab.goto(page(table).as_uri())
    part = table.select(weighting="elbo")
    lead = margins(part.matrix(), part.stderr_matrix())
    undecided = [
        query for query, margin in zip(part.queries, lead.tolist(), strict=True) if margin < UNDECIDED_BELOW
    ]
    assert 0 < len(undecided) < 48
    tab.get_by_label("Show").select_option("undecided")
    assert [row[0] for row in _shown(tab)] == undecided
    assert tab.locator("#cards .badge").count() == len(undecided)
    tab.get_by_label("Sort").select_option("margin")
    ranked = sorted(undecided, key=lambda query: -lead[part.queries.index(query)])
    assert [row[0] for row in _shown(tab)] == ranked
    tab.get_by_label("Show").select_option("all")
    tab.get_by_label("Find").fill("Q6")
    assert sorted(row[0] for row in _shown(tab)) == ["q6", "q60", "q61", "q62", "q63"]


def test_a_query_opens_with_all_its_groups_and_the_keyboard_moves_on(
    tab: Page, page: Callable[..., Path], table: ScoreTable
) -> None:
    tab.goto(page(table).as_uri())
    part = table.select(weighting="elbo")
    scores, stderr = part.matrix()[0], part.stderr_matrix()[0]
    tab.locator("#cards button").first.focus()
    tab.keyboard.press("Enter")
    detail = tab.get_by_role("dialog", name="q0")
    order = scores.argsort(descending=True).tolist()
    assert detail.locator(".name").all_inner_texts() == [GROUPS[g] for g in order]
    assert detail.locator(".number").all_inner_texts() == [
        f"{with_error(float(scores[g]), float(stderr[g]))} nats (±: noise draws only)" for g in order
    ]
    assert detail.locator("#detail-picture img").get_attribute("alt") == "Query q0"
    tab.keyboard.press("ArrowRight")
    assert tab.get_by_role("dialog", name="q1").is_visible()
    tab.keyboard.press("Escape")
    assert not tab.locator("#detail").is_visible()


def test_the_map_is_read_with_the_keyboard(tab: Page, page: Callable[..., Path], table: ScoreTable) -> None:
    tab.goto(page(table).as_uri())
    part = table.select(weighting="elbo")
    tab.locator("#heat").focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowDown")
    query, _, rest = tab.locator("#map-cell").inner_text().partition(" · ")
    group, _, number = rest.rpartition(": ")
    q, g = part.queries.index(query), part.groups.index(group)
    assert number == f"{with_error(float(part.matrix()[q, g]), float(part.stderr_matrix()[q, g]))} nats"
    tab.keyboard.press("Enter")
    assert tab.get_by_role("dialog", name=query).is_visible()


def test_every_group_shows_its_influence_while_unlearning(
    tab: Page, page: Callable[..., Path], table: ScoreTable
) -> None:
    tab.goto(page(table).as_uri())
    curve = tab.get_by_role("img", name="style 2: after 20 steps 10 on its own images and 0.2 on others")
    own, other = curve.locator(".own"), curve.locator(".other")
    assert own.get_attribute("points") == "0.0,84.0 100.0,42.0 200.0,0.0"  # 0, 5 and 10 of 10, upwards
    assert other.get_attribute("points") == "0.0,84.0 100.0,83.2 200.0,82.3"


def test_no_picture_lacks_a_text_and_no_control_a_name(
    tab: Page, page: Callable[..., Path], table: ScoreTable
) -> None:
    tab.goto(page(table).as_uri())
    assert tab.locator("img:not([alt])").count() == 0
    assert tab.locator("#cards .picture[alt='Query q0']").count() == 1
    for control in tab.locator("button:visible, select:visible, input:visible").all():
        name = control.evaluate("c => c.ariaLabel || c.labels?.[0]?.textContent || c.textContent")
        assert name.strip(), control.evaluate("c => c.outerHTML")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(
    tab: Page, page: Callable[..., Path], table: ScoreTable, scheme: str
) -> None:
    tab.emulate_media(color_scheme=scheme)
    tab.goto(page(table).as_uri())
    colors = tab.evaluate(
        """() => Object.fromEntries(["page", "surface", "ink", "muted", "positive", "negative"].map(
            (name) => [name, [...color("--" + name)].slice(0, 3)]))"""
    )

    def luminance(name: str) -> float:
        parts = [c / 255 for c in colors[name]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert (luminance("ink") > luminance("page")) == (scheme == "dark")
    for text in ("ink", "muted", "positive", "negative"):
        for ground in ("page", "surface"):
            low, high = sorted((luminance(text), luminance(ground)))
            assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG 2 AA


def test_the_theme_button_switches(tab: Page, page: Callable[..., Path], table: ScoreTable) -> None:
    tab.goto(page(table).as_uri())
    ground = "getComputedStyle(document.body).backgroundColor"
    before = tab.evaluate(ground)
    tab.get_by_role("button", name="Switch between light and dark").click()
    assert tab.evaluate(ground) != before


def test_the_agreement_is_a_table_with_a_chart_that_the_policy_lets_in(
    tab: Page, page: Callable[..., Path], table: ScoreTable, evaluation: Callable[..., Evaluation]
) -> None:
    built = evaluation(HOSTILE, "retrack-0")
    tab.goto(page(table, evaluation=built).as_uri())
    tab.get_by_role("navigation").get_by_role("link", name="Agreement").click()
    section = tab.get_by_role("region", name="Agreement with retraining")
    assert section.is_visible()
    for position, weighting in enumerate(("elbo", "uniform")):
        found = agreement_table(built, weighting)
        rows = section.get_by_role("group", name=f"Agreement under weighting {weighting}").get_by_role(
            "rowheader"
        )
        assert rows.all_inner_texts() == [row.label for row in found.methods] + ["oracle agreement", "chance"]
        chart = section.locator("img.chart").nth(position)
        assert chart.evaluate("image => image.decode().then(() => image.naturalWidth)") > 500
    filtered = "image => getComputedStyle(image).filter"
    assert chart.evaluate(filtered) == "none"
    tab.get_by_role("button", name="Switch between light and dark").click()
    assert "invert" in chart.evaluate(filtered)  # a chart follows the theme
    assert tab.title() == "Digits"


def test_queries_that_are_not_attributable_carry_a_badge_under_the_shown_weighting(
    tab: Page, page: Callable[..., Path], table: ScoreTable
) -> None:
    missed = {"elbo": frozenset({"q1", "q5"}), "uniform": frozenset({"q2"})}
    tab.goto(page(table, placebo=Placebo([f"Not attributable: {HOSTILE}."], missed)).as_uri())
    marked = tab.locator("#cards li", has_text="not attributable").locator(".id > span:first-child")
    assert marked.all_text_contents() == ["q1", "q5"]
    part = table.select(weighting="elbo")
    lead = margins(part.matrix(), part.stderr_matrix()).tolist()
    led = [query for query, one in zip(part.queries, lead, strict=True) if one >= UNDECIDED_BELOW]
    clear = [query for query in led if query not in missed["elbo"]]
    assert len(clear) < len(led)
    told = tab.locator("#finding").inner_text()
    assert told.startswith(
        f"{len(clear)} of 64 queries have a clear top group, {64 - len(led)} are undecided, "
        f"{len(led) - len(clear)} more "
    )
    tab.locator("#show").select_option("clear")
    assert [row[0] for row in _shown(tab)] == clear
    tab.locator("#show").select_option("all")
    tab.get_by_role("radio", name="Uniform").check(force=True)
    assert marked.all_text_contents() == ["q2"]
    tab.get_by_role("navigation").get_by_role("link", name="Placebo").click()
    section = tab.get_by_role("region", name="Placebo groups")
    assert section.get_by_role("paragraph").all_inner_texts() == [f"Not attributable: {HOSTILE}."]
    assert tab.title() == "Digits"


def pictures(table: ScoreTable, groups: list[str], scored: bool = True) -> Without:
    rows = [5, 0, 63]
    full = Queries(tuple(table.queries[q] for q in rows), torch.rand(3, 3, 8, 8) * 2 - 1)
    return Without(full, {group: -full.images for group in groups}, scored, f"by {HOSTILE}")


def test_the_picture_without_the_top_group_is_outlined_under_the_shown_weighting(
    tab: Page, page: Callable[..., Path], table: ScoreTable
) -> None:
    tab.goto(page(table, without=pictures(table, [*GROUPS, "style 1+style 2"])).as_uri())
    section = tab.get_by_role("region", name="With and without")
    assert section.get_by_role("columnheader").all_inner_texts() == [
        "query",
        "full model",
        *(f"without {group}" for group in [*GROUPS, "style 1+style 2"]),
    ]
    outlined = section.locator("td.top img")
    for weighting in ("elbo", "uniform"):
        if weighting == "uniform":
            tab.get_by_role("radio", name="Uniform").check(force=True)
        top = {query: group for query, group, _ in _expected(table, weighting)}
        assert outlined.evaluate_all("images => images.map((image) => image.alt)") == [
            f"{query} without {top[query]}" for query in ("q5", "q0", "q63")
        ]
        assert set(outlined.evaluate_all("all => all.map((one) => getComputedStyle(one).outlineStyle)")) == {
            "solid"
        }
    tab.get_by_role("navigation").get_by_role("link", name="With and without").click()
    decoded = section.locator("img").first.evaluate("image => image.decode().then(() => image.naturalWidth)")
    assert decoded == 8
    assert tab.title() == "Digits"


def test_no_picture_of_other_queries_is_outlined(
    tab: Page, page: Callable[..., Path], table: ScoreTable
) -> None:
    tab.goto(page(table, without=pictures(table, GROUPS, scored=False)).as_uri())
    assert tab.locator("#without img").count() == 3 * (1 + len(GROUPS))
    assert tab.locator("#without td.top").count() == 0


def half_maps(table: ScoreTable) -> GroupMaps:
    """Of the first two queries: the left half from the first group, the right half from the third one."""
    shares = torch.zeros(2, len(GROUPS), 8, 8)
    shares[:, 0, :, :4], shares[:, 2, :, 4:] = 1.0, 0.5
    return GroupMaps(table.queries[:2], tuple(GROUPS), shares, "")


def test_a_query_shows_which_part_came_from_which_group(
    tab: Page, page: Callable[..., Path], table: ScoreTable
) -> None:
    tab.emulate_media(color_scheme="dark")
    tab.goto(page(table, maps=half_maps(table)).as_uri())
    tab.locator("#cards button").nth(1).click()
    left, right = f"{HOSTILE} 50\u00a0% of the picture, left", "style 2 50\u00a0% of the picture, right"
    drawn = tab.get_by_role("img", name=f"Leading groups of query q1: {left}; {right}", exact=True)
    assert drawn.evaluate("image => image.decode().then(() => image.naturalWidth)") == 8
    shown = drawn.evaluate(
        """image => {
            const canvas = Object.assign(document.createElement("canvas"), { width: 8, height: 8 });
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            const row = [...context.getImageData(0, 4, 8, 1).data];
            return [2, 6].map((x) => row.slice(4 * x, 4 * x + 4));
        }"""
    )
    colours = [bytes.fromhex(COLOURS[group]) for group in (0, 2)]
    for (*colour, opacity), expected, share in zip(shown, colours, (1, 0.5), strict=True):
        assert colour == pytest.approx(list(expected), abs=2)
        assert opacity / 255 == pytest.approx(share, abs=0.01)
    assert drawn.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    over, under = (tab.locator(".spatial img").nth(place).bounding_box() for place in (1, 0))
    assert over == under
    keys = tab.locator(".spatial li i").evaluate_all(
        "all => all.map((one) => getComputedStyle(one).backgroundColor)"
    )
    assert keys == [f"rgb({', '.join(map(str, colour))})" for colour in colours]
    assert tab.locator(".spatial li .name").all_inner_texts() == [HOSTILE, "style 2"]
    tab.keyboard.press("ArrowRight")
    assert tab.get_by_role("dialog", name="q2").is_visible()
    assert tab.locator(".spatial").count() == 0  # no map is known of this one
    assert tab.title() == "Digits"


@pytest.mark.parametrize("width", [320, 1300])
def test_nothing_is_wider_than_the_window(
    tab: Page, page: Callable[..., Path], table: ScoreTable, evaluation: Callable[..., Evaluation], width: int
) -> None:
    tab.set_viewport_size({"width": width, "height": 800})
    placebo = Placebo(["x" * 300], {"elbo": frozenset(table.queries)})
    without = pictures(table, [f"a very long name {i} " * 5 for i in range(12)])
    sections = {"evaluation": evaluation("a very long name " * 5), "placebo": placebo, "without": without}
    tab.goto(page(table, **sections, maps=half_maps(table)).as_uri())
    tab.locator("#cards button").first.click()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    inside = "dialog => dialog.scrollWidth <= dialog.clientWidth"
    assert tab.locator("#detail").evaluate(inside)


def test_prompts_stand_beside_their_queries_and_are_found(
    tab: Page, page: Callable[..., Path], table: ScoreTable
) -> None:
    prompts = tuple(f"A depiction of {number}, {HOSTILE}" for number in range(64))
    queries = Queries(table.queries, torch.zeros(64, 3, 8, 8), prompts=prompts)
    tab.goto(page(table, queries=queries).as_uri())
    assert tab.locator("#cards .prompt").first.inner_text() == prompts[0]
    tab.locator("#find").fill("depiction of 63,")
    assert tab.locator("#cards li").count() == 1
    tab.locator("#cards button").click()
    assert tab.locator("#detail-prompt").inner_text() == prompts[63]


def test_without_prompts_there_is_no_room_for_them(
    tab: Page, page: Callable[..., Path], table: ScoreTable
) -> None:
    tab.goto(page(table).as_uri())
    assert tab.locator("#cards .prompt").count() == 0


def test_the_first_lines_say_what_the_scores_are_worth_and_nothing_is_clear_by_chance(
    tab: Page, page: Callable[..., Path], table: ScoreTable, evaluation: Callable[..., Evaluation]
) -> None:
    built = evaluation(mine=torch.randn_like)
    built = replace(built, record={**built.record, "methods": {"mine": table.record.hash}})
    tab.goto(page(table, evaluation=built).as_uri())
    banner = tab.get_by_role("note", name="What these scores are worth")
    assert "Do not use this order: retrack ranks groups no better than chance here." in banner.inner_text()
    assert "Shown: retrack, weighting elbo, seed 0 (table retrack-0)." in banner.inner_text()
    red = banner.evaluate("b => getComputedStyle(b).borderLeftColor")
    assert red == "rgb(179, 38, 30)"
    above = banner.bounding_box()["y"]
    assert above < tab.locator("#finding").bounding_box()["y"]
    assert "clear top group" not in tab.locator("body").inner_text()
    assert tab.locator("#finding").inner_text() == (
        "No top group is called clear: retrack ranks groups no better than chance here."
    )
    assert not tab.locator("#show").is_visible()
    assert tab.locator("#cards .badge").count() == 0


def test_queries_led_by_a_group_whose_model_is_invalid_are_not_clear(
    tab: Page, page: Callable[..., Path], table: ScoreTable
) -> None:
    part = table.select(weighting="elbo")
    tops = [GROUPS[top] for top in part.matrix().argmax(dim=1).tolist()]
    lead = margins(part.matrix(), part.stderr_matrix()).tolist()
    led = [top for top, one in zip(tops, lead, strict=True) if one >= UNDECIDED_BELOW]
    spoiled = led[0]
    verdict = Verdict("invalid", "nothing was forgotten", Evidence(Rise(0.1, 0.1), Rise(0.1, 0.1)))
    tab.goto(page(replace(table, verdicts={spoiled: verdict})).as_uri())
    told, out = tab.locator("#finding").inner_text(), led.count(spoiled)
    assert told.startswith(
        f"{len(led) - out} of 64 queries have a clear top group, {64 - len(led)} are undecided, {out} more "
    )
    assert "led by a group whose model is invalid" in told
    tab.locator("#show").select_option("clear")
    assert spoiled not in [row[1] for row in _shown(tab)]


def test_all_tables_stand_behind_one_switch_with_their_verdicts(
    tab: Page, page: Callable[..., Path], table: ScoreTable, score_table: Callable[..., ScoreTable]
) -> None:
    alike = score_table(
        -table.select(weighting="elbo").matrix(),
        torch.zeros(64, 10),
        groups=GROUPS,
        method="similarity",
        weighting="cosine",
    )
    without = pictures(table, GROUPS[:2])
    tab.goto(page(table, [alike], without=without).as_uri())
    switch = tab.get_by_label("Scores", exact=True)
    assert switch.locator("option").all_inner_texts() == ["retrack-0: untested", "similarity-0: untested"]
    assert tab.locator("#without img").first.is_visible()
    tab.get_by_label("Sort").select_option("margin")
    switch.select_option(index=1)
    assert _shown(tab) == _expected(alike, "cosine")[:48]
    assert "Shown: similarity" in tab.locator("header .standing:visible").inner_text()
    assert not tab.locator("#without img").first.is_visible()  # of another method
    assert "No pictures were drawn by similarity" in tab.locator("#without").inner_text()
    assert "similarity states no ±" in tab.locator("#finding").inner_text()
    lead = tab.get_by_label("Sort").locator("[value=margin]")
    assert lead.is_disabled() and tab.get_by_label("Sort").input_value() == "given"
    tab.locator("#cards button").first.click()
    rows = tab.get_by_role("group", name="Top groups by every method").locator("tbody tr")
    first = [row.locator("td").first.inner_text().splitlines()[0] for row in rows.all()]
    scores = table.select(weighting="elbo").matrix()[0]
    assert first == [GROUPS[int(scores.argmax())], GROUPS[int(scores.argmin())]]


def test_words_are_explained_on_hover_and_by_the_keyboard(
    tab: Page, page: Callable[..., Path], table: ScoreTable
) -> None:
    assert {name.replace("@", "-") for name in METRICS} <= GLOSSARY.keys()
    tab.goto(page(table).as_uri())
    tip = tab.get_by_role("tooltip")
    word = tab.locator("aside .term", has_text="Mean score")
    assert not tip.is_visible()
    word.hover()
    assert tip.inner_text() == GLOSSARY["mean"]
    tab.mouse.move(0, 0)
    assert not tip.is_visible()
    word.focus()
    expect(word).to_have_accessible_description(GLOSSARY["mean"])
    tab.keyboard.press("Escape")
    assert not tip.is_visible()
    tab.keyboard.press("Tab")  # to the next word
    assert tip.inner_text() == GLOSSARY["leads"]
    tab.locator("#cards button").first.click()
    tab.locator("#detail-verdict .term").focus()
    assert tip.inner_text() == GLOSSARY["lead"]
    tab.keyboard.press("Escape")  # closes the explanation, and not the dialog
    assert not tip.is_visible()
    assert tab.locator("#detail").is_visible()
    described = tab.locator(".term").evaluate_all(
        "all => all.every((one) => document.getElementById(one.getAttribute('aria-describedby')).textContent)"
    )
    assert described


def test_help_is_unfolded_until_the_reader_folds_it(
    tab: Page, page: Callable[..., Path], table: ScoreTable
) -> None:
    tab.goto(page(table).as_uri())
    assert tab.locator("#help").get_attribute("open") is not None
    tab.locator("#help summary").click()
    tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")  # toggled
    tab.reload()
    assert tab.locator("#help").get_attribute("open") is None


def test_a_link_opens_its_query_under_its_scores(
    tab: Page, page: Callable[..., Path], table: ScoreTable, score_table: Callable[..., ScoreTable]
) -> None:
    other = score_table(torch.randn(64, 10), groups=GROUPS, method="other", weighting="uniform")
    place = page(ScoreTable.concat([table, other])).as_uri()
    tab.goto(f"{place}#query=q7")
    assert tab.get_by_role("dialog", name="q7").is_visible()
    tab.keyboard.press("Escape")
    assert tab.evaluate("location.hash") == ""
    tab.get_by_role("radio", name="Uniform").check(force=True)
    tab.locator("#cards button").nth(2).click()
    link = tab.get_by_role("link", name="Link to this query and these scores").get_attribute("href")
    assert link == "#query=q2&table=retrack-other-0&method=retrack&weighting=uniform"
    for method in ("retrack", "other"):
        tab.goto("about:blank")
        tab.goto(f"{place}{link.replace('method=retrack', f'method={method}')}")
        assert tab.get_by_role("dialog", name="q2").is_visible()
        assert f"Method {method}," in tab.locator("#unit").inner_text()
    tab.goto("about:blank")
    tab.goto(f"{place}{link}")
    assert tab.get_by_role("radio", name="Uniform").is_checked()


def test_downloads_hold_what_the_command_writes(
    tab: Page, page: Callable[..., Path], table: ScoreTable, shown: Callable[..., Any], tmp_path: Path
) -> None:
    tab.goto(page(table).as_uri())
    with tab.expect_download() as kept:
        tab.get_by_role("button", name="JSON").click()
    assert json.loads(kept.value.path().read_text()) == json.loads(
        write_json(tmp_path, shown(table)).read_text()
    )
    with tab.expect_download() as kept:
        tab.get_by_role("button", name="CSV").click()
    found, expected = (
        list(csv.reader(path.read_text("utf-8").splitlines()))
        for path in (kept.value.path(), write_csv(tmp_path, shown(table)))
    )
    numbers = slice(6, 8)
    assert [row[:6] + row[8:] for row in found] == [row[:6] + row[8:] for row in expected]
    assert [list(map(float, row[numbers])) for row in found[1:]] == [
        list(map(float, row[numbers])) for row in expected[1:]
    ]


def test_paper_is_light_and_holds_all_groups_and_cards(
    tab: Page, page: Callable[..., Path], table: ScoreTable
) -> None:
    tab.set_viewport_size({"width": 720, "height": 1000})  # of A4
    tab.emulate_media(color_scheme="dark")
    tab.goto(page(table, without=pictures(table, GROUPS)).as_uri())
    assert tab.locator("#cards li").count() == 48
    tab.emulate_media(media="print", color_scheme="dark")
    expect(tab.locator("#cards li")).to_have_count(64)
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(250, 250, 248)"
    assert not tab.locator("nav").is_visible() and not tab.locator(".toolbar").is_visible()
    boxes = [one.bounding_box() for one in tab.locator("#groups li").all()]
    assert len(boxes) == 10
    assert all(box and box["x"] + box["width"] <= 720 for box in boxes)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 720
    middle = tab.evaluate(
        "[...document.getElementById('heat').getContext('2d').getImageData(0, 0, 1, 1).data]"
    )
    assert middle[3] == 255  # the map is drawn, in or out of sight
    tab.emulate_media(media="screen", color_scheme="dark")
    expect(tab.locator("#cards li")).to_have_count(48)
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"


def test_thousands_of_queries_cost_a_filter_no_more_nodes_than_it_shows(
    tab: Page, page: Callable[..., Path], score_table: Callable[..., ScoreTable]
) -> None:
    scores = torch.randn(2000, 60, generator=torch.Generator().manual_seed(0))
    tab.goto(page(score_table(scores), curves=[], examples={}).as_uri())
    assert tab.locator("#cards li").count() == 48
    assert tab.evaluate("document.querySelectorAll('*').length") < 6000
    tab.evaluate(
        """() => {
            window.added = 0;
            new MutationObserver((all) => { for (const one of all) for (const node of one.addedNodes)
                window.added += 1 + (node.querySelectorAll?.("*").length ?? 0); })
                .observe(document.body, { childList: true, subtree: true });
            window.drawn = 0;
            const put = CanvasRenderingContext2D.prototype.putImageData;
            CanvasRenderingContext2D.prototype.putImageData = function (...given) {
                window.drawn += 1;
                put.apply(this, given);
            };
        }"""
    )
    tab.get_by_label("Find").fill("q19")
    assert tab.locator("#count").inner_text() == "48 of 111 shown"
    assert 0 < tab.evaluate("window.added") < 48 * 60  # cards alone
    assert tab.evaluate("window.drawn") == 0  # the map is not in sight
    tab.locator("#heat").scroll_into_view_if_needed()
    expect(tab.get_by_role("img", name="Heat map of 111 queries and 60 groups")).to_be_visible()
    assert tab.evaluate("window.drawn") == 1
