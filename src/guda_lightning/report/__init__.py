"""One self-contained page, and one terminal table, that answer which groups made each sample."""
