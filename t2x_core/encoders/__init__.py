"""Latent codecs and text encoders that come with t2x: plugins like any other, one file each.

Their settings stand in `config.py`, which imports nothing heavy.
"""
