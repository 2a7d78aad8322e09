"""Measures what dogwatch costs beside the same work without it: always both in one run, as ratios and differences."""
