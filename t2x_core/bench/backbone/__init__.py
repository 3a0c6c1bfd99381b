"""The backbone's attentions against each other, the released block and PixArt: time, FLOPs, memory.

    N  tokens of a sample    f, h, w  token grid    D  width    M  windows    L  tokens of a window

A *cell* is one token grid and one pass. In each cell the networks take turns with a product of matrices, so that
what the machine does meanwhile happens to all of them.
"""
