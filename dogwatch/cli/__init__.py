"""The command line: run a job on a directory, and look after jobs and sessions."""

from dogwatch.cli.app import main

__all__ = ["main"]
