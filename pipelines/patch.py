"""The only way this project changes somebody else's object."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class _Method:
    """Stands in for a method of one scheduler: a deep copy of that (LTX-2 and SkyReels make one) has its own again."""

    def __init__(self, owner: Any, name: str, made: Callable[..., Any]) -> None:
        functools.update_wrapper(self, made)
        self._owner, self._name, self._made = owner, name, made

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._made(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copy = memo.get(id(self._owner))
        return self if copy is None else getattr(type(self._owner), self._name).__get__(copy)


@contextmanager
def patched(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Replace ``owner.name`` by ``wrap(owner.name)`` until the block ends, then put back exactly what was there.

    >>> class Greeter:
    ...     def hello(self): return "hello"
    >>> g = Greeter()
    >>> with patched(g, "hello", lambda old: lambda: old().upper()):
    ...     g.hello()
    'HELLO'
    >>> g.hello(), vars(g)
    ('hello', {})
    """
    was_own, old = name in vars(owner), getattr(owner, name)
    made = functools.wraps(old)(wrap(old))  # wraps: diffusers inspects the signatures of schedulers
    setattr(owner, name, made if isinstance(owner, nn.Module) else _Method(owner, name, made))
    try:
        yield
    finally:
        if was_own:
            setattr(owner, name, old)
        else:
            delattr(owner, name)


@contextmanager
def preserved(owners: list[Any], names: tuple[str, ...]) -> Iterator[None]:
    """Put back, when the block ends, what each owner itself held under *names*: for code that leaves things behind."""
    before = [{name: vars(owner)[name] for name in names if name in vars(owner)} for owner in owners]
    try:
        yield
    finally:
        for owner, held in zip(owners, before, strict=True):
            for name in names:
                if name in held:
                    setattr(owner, name, held[name])
                elif name in vars(owner):
                    delattr(owner, name)


@contextmanager
def exchanged(owner: nn.Module, name: str, module: nn.Module) -> Iterator[None]:
    """Let *module* stand where the child *name* of *owner* stood, in the same place among its children."""
    old = getattr(owner, name)
    setattr(owner, name, module)
    try:
        yield
    finally:
        setattr(owner, name, old)
