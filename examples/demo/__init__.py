"""The main job end to end on real parts, shown in a terminal: `make demo`."""
