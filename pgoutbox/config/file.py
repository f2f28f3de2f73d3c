"""The configuration file: YAML, read into dotted keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pgoutbox.config.wal_listener import MAPS
from pgoutbox.errors import ConfigError

if TYPE_CHECKING:
    import yaml


def read_file(file: Path, problems: list[str]) -> dict[str, object]:
    """Return the file's values by dotted keys in lower case.

    Adds a sentence to ``problems`` for each key that is there twice.

    Raises:
        ConfigError: it can't be read, or isn't YAML.
    """
    import yaml  # slow to import, and most commands have no file

    class Loader(yaml.SafeLoader):
        """Takes 12:34:56, 0123, yes and 1e3 for text; settings know their types themselves."""

        yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it
            first: [(tag, regexp) for tag, regexp in resolvers if tag.endswith((":null", ":merge"))]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    try:
        loader = Loader(file.read_text("utf-8"))
        node = loader.get_single_node()
        repeated = list(_repeated_keys(node))  # before merges add to what it has
        document = loader.construct_document(node) if node else None
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it isn't UTF-8"
        raise ConfigError(f"the configuration file {file} can't be read: {reason}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        # Not the parser's own text, which quotes the line: that may hold a password.
        raise ConfigError(f"the configuration file {file} isn't valid YAML{where}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        problems.append(f"the configuration file {file} must hold keys and values")
        return {}
    problems += repeated
    return dict(_flatten(document))


def _repeated_keys(node: yaml.Node | None, above: str = "") -> Iterator[str]:
    """Yield a sentence for each key that a map has twice; YAML itself would take the last."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        is_ours = above.removesuffix(".") not in MAPS
        path = f"{above}{key.value.lower() if is_ours else key.value}"
        line = key.start_mark.line + 1
        if path in lines:
            yield f"the file has {above}{key.value} twice, in lines {lines[path]} and {line}"
        lines[path] = line
        yield from _repeated_keys(value, f"{path}.")


def _flatten(document: Mapping[object, object], above: str = "") -> Iterator[tuple[str, object]]:
    for key, value in document.items():
        path = f"{above}{key}".lower()
        if isinstance(value, dict) and path not in MAPS:
            yield from _flatten(value, f"{path}.")
        else:
            yield path, value
