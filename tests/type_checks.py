"""Types and shapes are checked at each call of the package's functions while tests run.

jaxtyping's import hook does so, but binds the arguments of each call and checks them twice, which more than doubles
the time that rendering a scene takes. Here beartype checks them, once, and jaxtyping's context is entered only for
functions of arrays. Generators, and names that only type checkers know, are left to jaxtyping.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeException

_jaxtyped = jaxtyping.jaxtyped
_beartype = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def install_type_checks(package: str) -> None:
    """Check the functions and dataclasses of a package that is imported from now on."""
    jaxtyping.jaxtyped = _checked
    jaxtyping.install_import_hook(package, "beartype.beartype")


def _checked(*, typechecker: Callable) -> Callable[[Any], Any]:
    """Return the decorator that the import hook puts on each function and class."""
    return functools.partial(_check, typechecker)


def _check(typechecker: Callable, item: Any) -> Any:
    if inspect.isclass(item):
        init = vars(item).get("__init__")
        if is_dataclass(item) and init and not hasattr(init, "__wrapped__"):
            item.__init__ = _check(typechecker, init)
        return item
    hints = [_describe_hint(hint) for hint in getattr(item, "__annotations__", {}).values()]
    has_arrays = ["jaxtyping" in hint for hint in hints]
    has_names = any("'" in hint and not array for hint, array in zip(hints, has_arrays, strict=True))
    if not inspect.isfunction(item) or inspect.isgeneratorfunction(item) or has_names:
        return _jaxtyped(item, typechecker=typechecker)
    try:
        checked = _beartype(item)
    except BeartypeException:  # of Self, for example
        return _jaxtyped(item, typechecker=typechecker)
    return _in_context(checked) if any(has_arrays) else checked


def _describe_hint(hint: Any) -> str:
    return f"{hint.__module__}.{hint.__name__}" if isinstance(hint, type) else repr(hint)


def _in_context(function: Callable) -> Callable:
    """Call a function with sizes of its own for the names of dimensions."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        with _jaxtyped("context"):
            return function(*arguments, **options)

    return call
