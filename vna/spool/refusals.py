"""What an operating system's refusal means for the spool."""

import contextlib
import functools
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from vna.errors import SpoolUnusable


class _OfSpool(Protocol):
    path: Path


_S = TypeVar("_S", bound=_OfSpool)
_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextlib.contextmanager
def as_spool_error(path: Path) -> Generator[None]:
    """Say an operating system's error about our own disk as `SpoolUnusable`."""
    try:
        yield
    except OSError as error:
        raise SpoolUnusable(str(path), error.strerror or str(error)) from error


def refusing(method: Callable[Concatenate[_S, _P], _R]) -> Callable[Concatenate[_S, _P], _R]:
    """A method of the spool whose `OSError` is `SpoolUnusable`, naming the folder that it was asked about."""

    @functools.wraps(method)
    def call(spool: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(spool, *args, **kwargs)
        except OSError as error:
            raise SpoolUnusable(
                str(_asked_about(args) or spool.path), error.strerror or str(error)
            ) from error

    return call


def _asked_about(arguments: tuple[object, ...]) -> Path | None:
    """A folder or file among them, or the path of one that has it."""
    for argument in arguments:
        path = getattr(argument, "path", argument)
        if isinstance(path, Path):
            return path
    return None
