"""Tables as spreadsheets and scripts write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.toys import message

from guda_lightning.data.grouping import Grouping
from guda_lightning.data.prompts import read_prompts
from guda_lightning.data.rows import read_rows
from guda_lightning.errors import DataError

IDS = ["a.png", "b.png", "caf\u00e9.png"]
PLAIN = "id,group\na.png,x\nb.png,\n"
SPREADSHEET = "save it as 'CSV UTF-8', which every spreadsheet offers"


def groups_of(path: Path, content: str | bytes) -> dict[str, list[int]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    grouping = Grouping.from_metadata(path, IDS)
    return {name: grouping.forget([name]).tolist() for name in grouping.names}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", PLAIN),
        ("M.CSV", PLAIN),
        ("m.csv", "\ufeff" + PLAIN),
        ("m.csv", PLAIN.replace("\n", "\r\n")),
        ("m.csv", PLAIN.replace("\n", "\r")),
        ("m.csv", PLAIN.replace(",", ";")),
        ("m.csv", PLAIN.replace(",", "\t")),
        ("m.tsv", PLAIN.replace(",", "\t")),
        ("m.tsv", PLAIN),
        ("m.csv", PLAIN.replace(",", ", ")),
        ("m.csv", ' "id", "group"\n "a.png", "x"\n b.png , \n'),
        ("m.csv", "sep=;\r\n" + PLAIN.replace(",", ";")),
        ("m.csv", "\n,,\n" + PLAIN.replace("\n", "\n,\n\n") + " ,\t,,\n\n"),
        ("m.csv", PLAIN.replace("\n", ",,\n")),  # empty columns at the end
        ("m.csv", "id;group;;\na.png;x;;\n;;;\n"),
        ("m.csv", ",id,group\n0,a.png,x\n1,b.png,\n"),  # pandas writes its index under no name
        ("m.csv", 'note;id;group\n"one, two\nthree";a.png;x\n'),
        ("m.csv", "group,note (a;b;c;d),id\nx,1;2;3;4,a.png\n"),
        ("m.JSONL", '{"id": "a.png", "group": "x", "size": NaN}\r\n\r\n{"id": "b.png", "group": null}'),
    ],
)  # fmt: skip
def test_tables_are_read_as_spreadsheets_write_them(tmp_path: Path, name: str, content: str) -> None:
    assert groups_of(tmp_path / name, content) == {"x": [0]}


@pytest.mark.parametrize("spelling", ["caf\u00e9.png", "cafe\u0301.png", " caf\u00e9.png "])
def test_an_id_is_known_however_its_accents_are_encoded(tmp_path: Path, spelling: str) -> None:
    assert groups_of(tmp_path / "m.csv", f"id,group\n{spelling},x\n") == {"x": [2]}


@pytest.mark.parametrize(
    "group", ["null", "NaN", "None", "NA", "TRUE", "1e5", "=A1", "'x", "1.0", "007", "-"]
)
def test_cells_are_text_whatever_they_look_like(tmp_path: Path, group: str) -> None:
    assert groups_of(tmp_path / "m.csv", f"id,group\na.png,{group}\n") == {group: [0]}


@pytest.mark.parametrize(
    ("name", "content", "problem", "found", "expected", "fix"),
    [
        ("m.csv", PLAIN.encode("utf-16"), "the group metadata {path} cannot be read", "text in UTF-16",
         "a readable UTF-8 file", SPREADSHEET),
        ("m.csv", PLAIN.encode("utf-16-be"), "the group metadata {path} cannot be read", "text in UTF-16",
         "a readable UTF-8 file", SPREADSHEET),
        ("m.jsonl", PLAIN.encode("utf-32"), "the group metadata {path} cannot be read", "text in UTF-32",
         "a readable UTF-8 file", "save it as UTF-8"),
        ("m.csv", "id,group\na.png,caf\u00e9\n".encode("cp1252"), "the group metadata {path} cannot be read",
         "another encoding on line 2, perhaps Windows-1252: a.png,caf\u00e9", "a readable UTF-8 file",
         SPREADSHEET),
        ("m.csv", b"PK\x03\x04...", "the group metadata {path} cannot be read",
         "an Excel workbook, or another zip archive", "a readable UTF-8 file", SPREADSHEET),
        ("m.csv", "id,group\n,x\n", "{path}, line 2: no id", "'' in the column 'id'",
         "the id of a sample, a text or a whole number", "fill in the id, or remove the line"),
        ("m.jsonl", '{"id": null, "group": "x"}', "{path}, line 1: no id", "None in the column 'id'",
         "the id of a sample, a text or a whole number", "fill in the id, or remove the line"),
        ("m.jsonl", '{"id": 1.0, "group": "x"}', "{path}, line 1: no id", "1.0 in the column 'id'",
         "the id of a sample, a text or a whole number", "fill in the id, or remove the line"),
        ("m.csv", "id,group\na.png,x,y\n", "{path}, line 2: more cells than columns",
         "3 cells: 'a.png', 'x', 'y'", "2 cells: 'id', 'group'",
         "put a text that holds the delimiter into quotes"),
        ("m.csv", "id,group,id\na.png,x,b.png\n", "{path}, line 1: the column 'id' is there twice",
         "'id', 'group', 'id'", "each column once", "rename or remove one of them"),
        ("m.jsonl", '{"id": "a.png", "group": "x", "group": "y"}',
         "{path}, line 1: the entry 'group' is there twice", "'id', 'group', 'group'", "each entry once",
         "rename or remove one of them"),
        ("m.csv", 'id,group\na.png,"x\nb.png,y\n', "{path}, line 3: the group metadata is broken",
         "unexpected end of data", "cells in pairs of quotes, with quotes inside them doubled",
         "correct the line, or one before it where a quote is left open"),
        ("m.csv", "id|group\na.png|x\n", "{path}, line 2: no column 'id'", "the columns 'id|group'",
         "a column 'id'", "name the columns so, or fill in the line"),
        ("m.jsonl", '{"id": ' + "1" * 5000 + "}", "{path}, line 1: invalid JSON", '{"id": ' + "1" * 73,
         'one object per line, such as {{"id": "0", "group": "cats"}}', "correct the line"),
        ("m.jsonl", "[" * 100_000, "{path}, line 1: invalid JSON", "[" * 80,
         'one object per line, such as {{"id": "0", "group": "cats"}}', "correct the line"),
        ("m.csv", None, "the group metadata {path} cannot be read", "No such file or directory",
         "a readable UTF-8 file", "check the path"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_text_is_refused(
    tmp_path: Path, name: str, content: str | bytes | None, problem: str, found: str, expected: str, fix: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    pattern = message(problem.format(path=path), found, expected.format(), fix)
    with pytest.raises(DataError, match=pattern):
        Grouping.from_metadata(path, IDS)


@pytest.mark.parametrize("name", ["p.csv", "p.TSV", "p.jsonl", "P.TXT"])
@pytest.mark.parametrize("column", ["prompt", "text"])
def test_prompts_are_called_prompt_or_text(tmp_path: Path, name: str, column: str) -> None:
    path, prompts = tmp_path / name, ["a cat, sitting", "a dog"]
    lines = {
        ".csv": [column, *(f'"{prompt}"' for prompt in prompts)],
        ".tsv": [f"{column}\tn", *(f"{prompt}\t1" for prompt in prompts)],
        ".jsonl": [json.dumps({column: prompt, "n": 1}) for prompt in prompts],
        ".txt": ["\ufeff" + prompts[0], "", prompts[1]],
    }[path.suffix.lower()]
    path.write_text("\r\n".join(lines), "utf-8")
    assert read_prompts(path) == prompts


def test_a_row_without_its_prompt_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("prompt,n\na cat,1\n,2\n")
    expected = message(
        f"{path}, line 3: invalid prompt: expected a string", "''", "a text", "correct the line"
    )
    with pytest.raises(DataError, match=expected):
        read_prompts(path)


def test_prompts_in_another_encoding_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(b"a\xff\n")
    expected = message(
        f"the file of prompts {path} cannot be read",
        "another encoding on line 1, perhaps Windows-1252: a\u00ff",
        "a readable UTF-8 file",
        "save it as UTF-8",
    )
    with pytest.raises(DataError, match=expected):
        read_prompts(path)


CELLS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1), st.sampled_from(",;\t"))
def test_a_quoted_table_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], delimiter: str
) -> None:
    def line(*cells: str) -> str:
        return delimiter.join('"' + cell.replace('"', '""') + '"' for cell in cells) + "\n"

    path = tmp_path_factory.getbasetemp() / "quoted.csv"
    path.write_bytes("".join([line("id", "group"), *(line(*row) for row in rows)]).encode())
    read = [(row["id"], row["group"]) for _, row in read_rows(path, "table", "{}", ("id", "group"))]
    assert read == [row for row in rows if any(map(str.strip, row))]
