"""Starts one of this room's small programs, `enter` or `keeper`, without the packages above it."""

# Those packages cost a third of a second to import. Run as `python -I -S program.py <name> <argument>...`; what it imports is the standard
# library and files of this room.

# ruff: noqa: PTH120 - see identity.py

import os.path
import sys
from importlib import import_module

_ROOM = os.path.dirname(os.path.realpath(__file__))
_ABOVE = os.path.dirname(_ROOM)


def main() -> None:
    """Put empty packages where `dogwatch` would be, so that a program's own imports find their files and run nothing else."""
    for name, place in (
        ("dogwatch", os.path.dirname(_ABOVE)),
        ("dogwatch.sandbox", _ABOVE),
        ("dogwatch.sandbox.local", _ROOM),
    ):
        package = type(sys)(name)
        package.__path__ = [place]
        sys.modules[name] = package
    name, *arguments = sys.argv[1:]
    import_module(f"dogwatch.sandbox.local.{name}").main(*arguments)


if __name__ == "__main__":
    main()
