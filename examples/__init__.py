"""Programs that show dogwatch at work; start with `make demo`."""
