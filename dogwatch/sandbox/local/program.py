"""Starts one of this room's small programs, `enter` or `keeper`, without the packages above it: they cost a third of a second to import.

Run as `python -I -S program.py <name> <argument>...`; what it imports is the standard library and files of this room.
"""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

_ROOM = Path(__file__).resolve().parent


def main() -> None:
    """Put empty packages where `dogwatch` would be, so that a program's own imports find their files and run nothing else."""
    for name, place in (
        ("dogwatch", _ROOM.parent.parent),
        ("dogwatch.sandbox", _ROOM.parent),
        ("dogwatch.sandbox.local", _ROOM),
    ):
        package = ModuleType(name)
        package.__path__ = [str(place)]
        sys.modules[name] = package
    name, *arguments = sys.argv[1:]
    import_module(f"dogwatch.sandbox.local.{name}").main(*arguments)


if __name__ == "__main__":
    main()
