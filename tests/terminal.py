"""A terminal for tests of what a person sees."""

from __future__ import annotations

import io
import re


class Terminal(io.StringIO):
    """A terminal, as far as moving up, moving left and overwriting go."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What is on it, without trailing blanks."""
        rows, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[A|\r|\n|[^\x1b\r\n]+", self.getvalue()):
            if part == "\x1b[A":
                row -= 1
            elif part == "\r":
                column = 0
            elif part == "\n":
                row, column = row + 1, 0
                rows += [""] * (row + 1 - len(rows))
            else:
                rows[row] = rows[row].ljust(column)[:column] + part + rows[row][column + len(part) :]
                column += len(part)
        return [line.rstrip() for line in rows]
