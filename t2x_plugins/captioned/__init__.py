"""Shared by tasks with captions: how one reaches the backbone, losses, settings, own files. A library, not a plugin."""
