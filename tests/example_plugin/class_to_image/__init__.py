"""A task for t2x: pictures of a class."""
