"""What tasks with captions share: how a caption reaches the backbone, losses, settings. A library, not a plugin."""
