"""Data sets: where they come from (sources, download), which part is used (splits, encoded)."""
