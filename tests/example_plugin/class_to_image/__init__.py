"""A task for t2x: images of a class."""
