"""Sandboxes on this machine: bubblewrap where it works, otherwise plain processes, which it says loudly."""
