"""Names with wildcards are read as SQL reads names."""

from __future__ import annotations

import pytest

from pgoutbox import patterns


@pytest.mark.parametrize(
    ("text", "schema", "table"),
    [
        ("tenant_*.orders", r"tenant\_%", "orders"),
        ("Orders?", None, "orders_"),
        ('"Odd *"."?T"*', "Odd *", "?T%"),
        ('"a""b".*', 'a"b', "%"),
        (r"a\*.b%", r"a\\%", r"b\%"),
        ("größe*", None, "größe%"),
        ('"x.y".z*', "x.y", "z%"),
    ],
)
def test_a_pattern_is_what_like_takes(text: str, schema: str | None, table: str) -> None:
    assert patterns.parse(text) == patterns.Pattern(text, schema, table)


@pytest.mark.parametrize("text", ["", "a.", ".b", "a..b", "a.b.c", '"a', "a b", 'a."', "a*b.c.d*"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="'"):
        patterns.parse(text)


@pytest.mark.parametrize(
    ("name", "has"), [("a*", True), ('"a*"', False), ('"a"?', True), ("users", False)]
)
def test_wildcards_count_outside_of_double_quotes(name: str, has: bool) -> None:
    assert patterns.has_wildcards(name) is has
