"""A task for t2x: videos that begin with a given frame."""
