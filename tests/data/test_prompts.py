from __future__ import annotations

import json
import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guda_lightning.data import PromptParts, PromptTemplate
from guda_lightning.errors import ConfigError, DataError

DEPICTION, ARTWORK = PromptTemplate().templates

words = st.text(string.ascii_letters + string.digits + " -.", min_size=1)


@pytest.mark.parametrize(
    ("prompt", "content", "descriptors"),
    [
        ("A depiction of Dogs, artistic style featuring vertical, impasto", "Dogs", ("vertical", "impasto")),
        ("An artwork of a sea lion, with dynamic forms", "a sea lion", ("dynamic forms",)),
        ("A depiction of Dogs", "Dogs", ()),
        ("An artwork of Dogs", "Dogs", ()),
        ("An artwork of Dogs, with a, with b", "Dogs", ("a", "with b")),
    ],
)
def test_a_prompt_is_taken_apart(prompt: str, content: str, descriptors: tuple[str, ...]) -> None:
    assert PromptTemplate().parse(prompt) == PromptParts(content, descriptors)


def test_the_first_template_makes_prompts() -> None:
    compose = PromptTemplate().compose
    assert compose("Dogs", ["a", "b c"]) == "A depiction of Dogs, artistic style featuring a, b c"
    assert compose("Dogs", ()) == "A depiction of Dogs"
    own = PromptTemplate(["({content}) in {style} style.", ARTWORK])
    assert own.compose("a+b", ["oil", "dark"]) == "(a+b) in oil, dark style."
    assert own.compose("a+b", ()) == "(a+b"  # the clause goes from the content to the end


def test_a_template_with_a_clause_is_preferred_to_one_without() -> None:
    template = PromptTemplate(["{content} in {style}", "{content} by {style}"])
    assert template.parse("cats by night") == PromptParts("cats", ("night",))
    assert template.parse("cats") == PromptParts("cats", ())


@given(content=words, descriptors=st.lists(words).map(tuple))
@pytest.mark.parametrize("templates", [[DEPICTION, ARTWORK], [ARTWORK, DEPICTION], ["{content} | {style} |"]])
def test_prompts_come_back(templates: list[str], content: str, descriptors: tuple[str, ...]) -> None:
    template = PromptTemplate(templates)
    assert template.parse(template.compose(content, descriptors)) == PromptParts(content, descriptors)


@given(content=st.text(max_size=3), descriptors=st.lists(st.text("a, |", max_size=4), max_size=3).map(tuple))
def test_any_words_come_back_or_are_refused(content: str, descriptors: tuple[str, ...]) -> None:
    template = PromptTemplate(["{content} | {style}"])
    try:
        prompt = template.compose(content, descriptors)
    except DataError:
        # The separators are in the way, or something is empty.
        assert not content or not all(descriptors) or any({" ", ","} & set(word) for word in descriptors)
    else:
        assert template.parse(prompt) == PromptParts(content, descriptors)


def test_a_prompt_of_another_form_is_refused(message) -> None:
    pattern = message(
        "the prompt 'Dogs in oil' fits no template",
        "'Dogs in oil'",
        f"'{DEPICTION}' or '{ARTWORK}'",
        "add its template to the list, or correct the prompt",
    )
    with pytest.raises(DataError, match=pattern):
        PromptTemplate().parse("Dogs in oil")


@pytest.mark.parametrize(
    ("content", "descriptors", "prompt"),
    [
        ("Dogs", ["a, b"], "A depiction of Dogs, artistic style featuring a, b"),
        ("Dogs", [""], "A depiction of Dogs, artistic style featuring "),
        ("", ["a"], "A depiction of , artistic style featuring a"),
        ("", [], "A depiction of "),
    ],
)
def test_words_that_would_be_lost_are_refused(
    message, content: str, descriptors: list[str], prompt: str
) -> None:
    pattern = message(
        f"the prompt '{prompt}' cannot be parsed back into its parts",
        f"the content '{content}' and the descriptors {descriptors}",
        "words that the template's own text and ', ' do not occur in, and no empty ones",
        "choose other words",
    )
    with pytest.raises(DataError, match=pattern):
        PromptTemplate().compose(content, descriptors)


@pytest.mark.parametrize(
    ("templates", "bad", "places"),
    [
        ([], "", "none"),
        ([DEPICTION, "A picture"], "A picture", "none"),
        (["A picture of {content}"], "A picture of {content}", "{content}"),
        (["In {style}: {content}"], "In {style}: {content}", "{style}, {content}"),
        (["{content}{style}"], "{content}{style}", "{content}, {style}"),
        (["{content} {by} {style}"], "{content} {by} {style}", "{content}, {by}, {style}"),
    ],
)  # fmt: skip
def test_a_template_without_its_places_is_refused(
    message, templates: list[str], bad: str, places: str
) -> None:
    pattern = message(
        f"the prompt template '{bad}' cannot be used",
        f"the places {places}",
        "{content}, some text, then {style}, each once",
        "write e.g. 'A depiction of {content}, artistic style featuring {style}'",
    )
    with pytest.raises(ConfigError, match=pattern):
        PromptTemplate(templates)


@pytest.mark.skipif(
    "GUDA_UNLEARNCANVAS" not in os.environ,
    reason="GUDA_UNLEARNCANVAS does not name a folder with the prompts of UnlearnCanvas",
)
def test_the_real_prompts_of_unlearncanvas() -> None:
    lines = Path(os.environ["GUDA_UNLEARNCANVAS"], "eval_prompts.jsonl").read_text().splitlines()
    assert len(lines) == 1200
    for row in map(json.loads, lines):
        parts = PromptTemplate().parse(row["prompt"])
        assert parts == PromptParts(row["object"], tuple(row["descriptors"]))
