"""Words that every other floor uses: torch, numpy and the standard library alone."""
