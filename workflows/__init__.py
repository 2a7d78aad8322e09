"""Durable steps: deterministic, light, importing contracts, names, errors and the activities they order."""
