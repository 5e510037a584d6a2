"""One self-contained page, and one terminal table, that answer which groups made each sample."""

from guda_lightning.report.page import Page, write_page
from guda_lightning.report.summary_text import summary, summary_of_parts

__all__ = ["Page", "summary", "summary_of_parts", "write_page"]
