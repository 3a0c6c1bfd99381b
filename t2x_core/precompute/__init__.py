"""`t2x cache`: what a recipe will read of the cache, and encoding what is not there yet."""
