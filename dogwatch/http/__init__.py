"""The HTTP door: rows for readers, Temporal for control, problems for everybody else."""
