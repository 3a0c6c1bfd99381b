"""`t2x data check`: looks at every file of a recipe, and says what is wrong with it."""
