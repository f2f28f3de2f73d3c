"""How a setting is declared: once, with everything that its names and documents need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from pgoutbox.config import wal_listener
from pgoutbox.config.values import BOOL, ValueType

_SETTINGS = "settings"  # in the metadata of a dataclass's field


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting by one of its flags, or by its names in wal-listener alone."""

    type: ValueType
    meaning: str
    flag: str | None = None
    variables: tuple[str, ...] = ()  # the first that is set counts
    keys: tuple[str, ...] = ()  # of the file; the first that is set counts
    fallback: str | None = None  # a variable that counts only if nothing else is set
    path: str = ""  # section.field of Config
    default: Any = None

    @property
    def parameter(self) -> str:
        """Its name among the flags that click passes."""
        return (self.flag or "").removeprefix("--").replace("-", "_")

    @property
    def is_switch(self) -> bool:
        """Whether its flag takes no value."""
        return self.type is BOOL

    @property
    def all_variables(self) -> tuple[str, ...]:
        """Every variable that it is read from."""
        return (*self.variables, self.fallback) if self.fallback else self.variables

    @property
    def shown_default(self) -> str:
        """The default as one would write it; empty if there is none."""
        return self.type.show(self.default) if self.default else ""


def own(
    flag: str,
    value_type: ValueType,
    meaning: str,
    *,
    also_key: str | None = None,
    also_variable: str | None = None,
    wal_listener_key: str | None = None,
    fallback: str | None = None,
) -> Setting:
    """Declare a setting of pgoutbox's own; its first variable and key follow from its flag.

    ``--nats-url`` is also ``PGOUTBOX_NATS_URL`` and ``pgoutbox.natsUrl``. ``wal_listener_key`` is
    the same setting in wal-listener's file; a variable of its own follows from it.
    """
    words = flag.removeprefix("--").split("-")
    keys = [f"pgoutbox.{words[0]}{''.join(word.capitalize() for word in words[1:])}"]
    variables = [f"PGOUTBOX_{'_'.join(words).upper()}"]
    keys += [key for key in (also_key, wal_listener_key) if key]
    if also_variable:
        variables.append(also_variable)
    if wal_listener_key:
        variables.append(wal_listener.variable(wal_listener_key))
    return Setting(value_type, meaning, flag, tuple(variables), tuple(keys), fallback)


def wal_listeners(key: str, value_type: ValueType, meaning: str) -> Setting:
    """Declare a setting that only wal-listener's file and variables have."""
    # No variable holds a map; see wal_listener.put_into_maps.
    variables = () if value_type.metavar == "MAP" else (wal_listener.variable(key),)
    return Setting(value_type, meaning, None, variables, (key,))


def setting(default: Any, *names: Setting, is_secret: bool = False) -> Any:
    """Return a dataclass's field that is set by any of ``names``.

    If several are set in the same place, the first of them counts.
    """
    given: dict[str, Any] = {"default_factory": dict} if default == {} else {"default": default}
    return field(**given, repr=not is_secret, metadata={_SETTINGS: names})


def settings_of(config: Any, path: str = "") -> Iterator[Setting]:
    """Yield the settings of a dataclass with its defaults, section by section."""
    for entry in fields(config):
        default, entry_path = getattr(config, entry.name), f"{path}{entry.name}"
        if is_dataclass(default):
            yield from settings_of(default, f"{entry_path}.")
        for names in entry.metadata.get(_SETTINGS, ()):
            yield replace(names, path=entry_path, default=default)
