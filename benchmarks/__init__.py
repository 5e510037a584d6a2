"""Measured comparisons; ``make benchmark`` runs all of them and rewrites the tables of docs/benchmarks.md."""
