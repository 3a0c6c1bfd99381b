"""The signals by which training is asked to stop: Ctrl-C, a cluster's warnings, the loss of the terminal."""

from __future__ import annotations

import signal

STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
"""The step ends, is saved, and the exit code is 128 + the signal's number."""
