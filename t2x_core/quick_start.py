"""A quicker start of processes that do not train."""

from __future__ import annotations

import importlib.util
import os
import sys
import types

PACKAGE, CLASSES = "torchmetrics", ("Metric", "MetricCollection")


class _Later(types.ModuleType):
    """A package whose own code runs when something is looked up in it; its submodules import as ever."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") or self.__spec__ is None or self.__spec__.loader is None:
            raise AttributeError(name)
        self.__class__ = types.ModuleType  # type: ignore[assignment]
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def prepare() -> None:
    """For a process without a Trainer, before torch and Lightning are imported.

    Threads that wait for others sleep: while they spin, another process on the same cores delays each operation.

    Lightning gets stand-ins of the two classes of torchmetrics that it compares types with: the package brings all its
    metrics, with scipy and transformers where they are installed, and takes longer than torch to import. Who looks for
    anything in it afterwards gets the package itself.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    spec = None if PACKAGE in sys.modules or "lightning" in sys.modules else importlib.util.find_spec(PACKAGE)
    if spec is None:
        return
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _Later
    for name in CLASSES:
        setattr(module, name, type(name, (), {}))
    sys.modules[PACKAGE] = module
    import lightning  # noqa: F401

    for name in CLASSES:
        delattr(module, name)
