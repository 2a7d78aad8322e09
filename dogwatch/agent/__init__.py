"""The coding agent: how its CLI is started, supervised and read, and what its run came to."""
