"""The relay runs on uvloop where that is installed, and on asyncio's loop where it isn't."""

from __future__ import annotations

import asyncio
import sys

import pytest

from pgoutbox.relay.daemon import _loop_factory


def test_uvloop_is_used_where_it_is_installed() -> None:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        assert isinstance(runner.get_loop(), uvloop.Loop)


def test_relay_does_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)

    assert _loop_factory() is None
