"""Prompts made of what a picture shows and of words for its style, and taken apart again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from guda_lightning.data.rows import prompt_of, read_rows, read_text
from guda_lightning.errors import ConfigError, DataError
from guda_lightning.storage.paths import user_path

_EXAMPLE = '{"prompt": "A depiction of Dogs, artistic style featuring vivid, impasto"}'
SEPARATOR = ", "  # between descriptors


def read_prompts(path: Path) -> list[str]:
    """Read prompts: one a line of a ``.txt`` file, or the column ``prompt``, or ``text``, of a table.

    Args:
        path: A ``.txt``, ``.csv``, ``.tsv`` or ``.jsonl`` file.

    Raises:
        DataError: The file is missing or broken, or has no prompts.
    """
    path = user_path(path)
    if path.suffix.lower() == ".txt":
        prompts = [line.strip() for line in StringIO(read_text(path, "file of prompts"), newline=None)]
    else:
        prompts = []
        for line, row in read_rows(path, "file of prompts", _EXAMPLE):
            prompt = prompt_of(path, line, row)
            if not isinstance(prompt, str) or not prompt.strip():
                raise DataError(
                    f"{path}, line {line}: invalid prompt: expected a string",
                    found=repr(prompt),
                    expected="a text",
                    fix="correct the line",
                )
            prompts.append(prompt.strip())
    found = [prompt for prompt in prompts if prompt]
    if not found:
        raise DataError(
            f"{path} has no prompts", found="0 prompts", expected="at least 1", fix="write one on a line"
        )
    return found


@dataclass(frozen=True)
class PromptParts:
    """What a prompt says.

    Attributes:
        content: What the picture shows, such as ``Dogs``.
        descriptors: Words for its style, such as ``("vertical", "impasto")``; perhaps none.
    """

    content: str
    descriptors: tuple[str, ...]


@dataclass(frozen=True)
class PromptTemplate:
    """Sentences with a place for the content and a later one for the descriptors of a style.

    Args:
        templates: Texts with ``{content}`` and then ``{style}``. The first one makes prompts, all of them
            take prompts apart. Without descriptors, a prompt ends with the content.

    Raises:
        ConfigError: No template, or one without these two places.
    """

    templates: list[str] = field(
        default_factory=lambda: [  # those of UnlearnCanvas
            "A depiction of {content}, artistic style featuring {style}",
            "An artwork of {content}, with {style}",
        ]
    )

    def __post_init__(self) -> None:
        for template in self.templates or [""]:
            if not re.fullmatch(r"[^{}]*\{content\}[^{}]+\{style\}[^{}]*", template):
                raise ConfigError(
                    f"the prompt template '{template}' cannot be used",
                    found=f"the places {', '.join(re.findall('{.*?}', template)) or 'none'}",
                    expected="{content}, some text, then {style}, each once",
                    fix="write e.g. 'A depiction of {content}, artistic style featuring {style}'",
                )

    def parse(self, prompt: str) -> PromptParts:
        """Take a prompt apart, by the first template that fits; those with a style clause come first.

        Raises:
            DataError: No template fits.
        """
        clauses = [template.split("{content}") for template in self.templates]
        for before, after in [*clauses, *((before, "") for before, _ in clauses)]:
            style = re.escape(after).replace(re.escape("{style}"), "(?P<style>.+)")
            if match := re.fullmatch(f"{re.escape(before)}(?P<content>.+?){style}", prompt, re.DOTALL):
                descriptors = match["style"].split(SEPARATOR) if after else ()
                return PromptParts(match["content"], tuple(descriptors))
        raise DataError(
            f"the prompt '{prompt}' fits no template",
            found=f"'{prompt}'",
            expected=" or ".join(f"'{template}'" for template in self.templates),
            fix="add its template to the list, or correct the prompt",
        )

    def compose(self, content: str, descriptors: Sequence[str]) -> str:
        """Put a prompt together by the first template.

        Raises:
            DataError: ``parse`` would take it apart in another way, as with ", " inside a descriptor.
        """
        before, after = self.templates[0].split("{content}")
        clause = after.replace("{style}", SEPARATOR.join(descriptors)) if descriptors else ""
        prompt = f"{before}{content}{clause}"
        parts = PromptParts(content, tuple(descriptors))
        if not content or self.parse(prompt) != parts:
            raise DataError(
                f"the prompt '{prompt}' cannot be parsed back into its parts",
                found=f"the content '{content}' and the descriptors {list(descriptors)}",
                expected="words that the template's own text and ', ' do not occur in, and no empty ones",
                fix="choose other words",
            )
        return prompt
