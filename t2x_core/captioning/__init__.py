"""`t2x data caption`: captions of images by a local model, in a manifest."""
