"""The makes of sandboxes behind the ports `Sandboxes` and `Sandbox`, one room each."""
