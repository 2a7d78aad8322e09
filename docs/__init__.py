"""The documents, and the program that writes those of them that are tables of the code: `python -m docs.generate`."""
