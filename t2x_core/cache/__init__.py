"""The cache: latents and text tokens that were encoded once, found by what they were made of."""
