"""The core of t2x: everything but the tasks."""
