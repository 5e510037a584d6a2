"""The version, which records of any layer carry."""

from __future__ import annotations

__version__ = "0.1.0"
