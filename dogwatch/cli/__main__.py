"""`python -m dogwatch.cli`."""

from dogwatch.cli import main

main()
