"""The Temporal UI as docs/temporal-ui.md shows it: `python -m examples.screenshots`."""
