"""Lightning's loop over the steps, for a run that may have done all of them."""

from __future__ import annotations

from lightning.pytorch.loops.fit_loop import _FitLoop


class WholeLoop(_FitLoop):
    """Comes to its start and its end, and to the callbacks there, though no step is left: a kill may have left out
    what comes after the last one."""

    skip = False
