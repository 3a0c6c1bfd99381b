"""`t2x new`: a recipe that fits somebody's data and machine."""
