"""The hands: one class per step, with ports in its constructor and no vendor by name."""
