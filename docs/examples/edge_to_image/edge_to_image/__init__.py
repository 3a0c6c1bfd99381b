"""A task for t2x: images from their edges."""
