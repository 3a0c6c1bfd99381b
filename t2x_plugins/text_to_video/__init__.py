"""Text-to-video."""
