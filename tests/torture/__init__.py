"""The torture harness (``make torture``): kills, damaged files, fuzzed input, hostile surroundings, on a run of every stage."""
