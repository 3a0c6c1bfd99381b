"""Text-to-image."""
