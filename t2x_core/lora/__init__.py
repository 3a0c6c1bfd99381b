"""LoRA: small updates of a backbone's linear layers, trained on weights that stay as they are."""
