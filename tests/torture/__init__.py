"""The harness of ``make torture``: kills, damaged files, fuzzed input and hostile surroundings."""
