"""Yardsticks as cards and archives; this file makes the folder a package of the wheel."""
