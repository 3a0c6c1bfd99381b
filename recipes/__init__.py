"""Recipes that ship with t2x; `t2x recipes` lists them."""
