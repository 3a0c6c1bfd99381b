"""Text-to-multiview: views of one object or scene from known cameras."""
