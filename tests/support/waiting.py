"""Waiting for facts instead of sleeping, and names that nobody else uses."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

_numbers = itertools.count(1)


Fact = TypeVar("Fact")


def unique(prefix: str) -> str:
    """Return a name that nobody else uses, not even another run on the same server."""
    return f"{prefix}{os.getpid()}n{next(_numbers)}"


@overload
async def eventually(
    fact: Callable[[], Awaitable[Fact | None]], *, timeout: float = ..., pause: float = ...
) -> Fact: ...


@overload
async def eventually(
    fact: Callable[[], Fact | None], *, timeout: float = ..., pause: float = ...
) -> Fact: ...


async def eventually(
    fact: Callable[[], object], *, timeout: float = 10.0, pause: float = 0.02
) -> object:
    """Return what ``fact`` returns once that is true; fail with its last answer after a while.

    An AssertionError in ``fact`` counts as not yet true.
    """
    deadline = time.monotonic() + timeout
    while True:
        failure: AssertionError | None = None
        answer: object = None
        try:
            answer = fact()
            if inspect.isawaitable(answer):
                answer = await answer
        except AssertionError as error:
            answer, failure = None, error
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise failure or AssertionError(f"not so within {timeout} s: the answer is {answer!r}")
        await asyncio.sleep(pause)
