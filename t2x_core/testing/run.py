"""The checks without pytest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from t2x_core.entry_points import describe, named, place
from t2x_core.errors import TrainingError, UserError
from t2x_core.recipe import Kind
from t2x_core.testing.base import PluginTests
from t2x_core.testing.codecs import CodecTests
from t2x_core.testing.tasks import SourceTests, TaskTests
from t2x_core.testing.text_encoders import TextEncoderTests

TESTS: Mapping[Kind, type[PluginTests]] = {
    "task": TaskTests,
    "source": SourceTests,
    "codec": CodecTests,
    "text_encoder": TextEncoderTests,
}


class Result(NamedTuple):
    """What came of one check."""

    what: str
    """What was checked."""
    problem: str = ""
    """What is wrong, where, and what to do; "" = nothing."""
    again: bool = False
    """Whether an earlier check failed for the same reason."""


def checks(tests: type[PluginTests]) -> list[str]:
    """Names of the methods, those of base classes first."""
    names = [name for owner in reversed(tests.__mro__) for name in vars(owner) if name.startswith("test_")]
    return list(dict.fromkeys(names))


def check(tests: PluginTests) -> Iterator[Result]:
    """Runs the checks of a class, one by one. What a check raises is its answer."""
    seen: set[str] = set()
    for name in checks(type(tests)):
        method = getattr(tests, name)
        what = (method.__doc__ or name).strip().splitlines()[0]
        try:
            method()
        except (Exception, SystemExit) as error:
            if os.environ.get("T2X_DEBUG") == "1":
                raise
            problem = _problem(tests, error)
            yield Result(what, problem, problem in seen)
            seen.add(problem)
        else:
            yield Result(what)


def _problem(tests: PluginTests, error: BaseException) -> str:
    if isinstance(error, UserError | TrainingError):
        return str(error)
    where = place(error, tests.rig.plugin.point.module)
    return str(tests.rig.plugin.refuse(describe(error), "T2X_DEBUG=1 shows where it comes from", where))


def checks_of(name: str, overrides: Sequence[str] = (), **attributes: object) -> PluginTests:
    """The checks of an installed plugin; UserError if there is none of this name.

    Args:
        overrides: settings, as "key=value".
        attributes: of the class, such as `settings`.
    """
    kind = named(name).kind() or _imported_kind(name)
    return type("Checked", (TESTS[kind],), {"plugin": name, "overrides": tuple(overrides), **attributes})()


def _imported_kind(name: str) -> Kind:
    """What a plugin that lists no settings brings."""
    from t2x_core.plugins import Registry

    for kind in TESTS:
        try:
            Registry().component(kind, name)
        except UserError as error:
            problem = error
            if "is not one of a" not in problem.message:
                raise
        else:
            return kind
    raise problem
