"""Configs, frozen dataclasses: read from plain data, overridden by key, written and hashed.

A field may hold a bool, int, float, str, an Optional or Literal of those, a tuple of them, or another
config. An unknown key is an error that names the nearest known one; a value of the wrong type is an
error that says what was expected.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import yaml

from ssmlab.core.errors import ConfigError

T = TypeVar("T")

# Once for each class: a study reads hundreds of configs of a dozen classes.
_type_hints = functools.cache(typing.get_type_hints)


def to_dict(config: Any) -> dict[str, Any]:
    """``config`` as nested plain data (tuples become lists), ready for JSON or YAML."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested plain data as dotted keys and single values, the form that ``override`` takes."""
    if not isinstance(data, dict):
        return {prefix[:-1]: data}
    return {
        k: v for key, value in data.items() for k, v in flatten(value, f"{prefix}{key}.").items()
    }


def from_dict(cls: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """Build config class ``cls`` from nested plain data; keys left out keep their defaults.

    Raises:
        ConfigError: an unknown key (the nearest is named), a missing key without default, or a
            value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or cls.__name__}: expected a mapping of keys, got {data!r}")
    hints = _type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values = {}
    for key, value in data.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in names:
            raise _unknown_key(path, str(key), names)
        values[key] = _convert(value, hints[key], path)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and field.name not in values:
            raise ConfigError(f"missing key '{where}.{field.name}'".replace("'.", "'"))
    return cls(**values)


def override(config: T, changes: Mapping[str, Any]) -> T:
    """A copy of ``config`` with dotted keys set, for example ``{"model.d_model": 256}``.

    All changes apply at once, so a pair of values that is only valid together can be set.
    """
    data = to_dict(config)
    for path, value in changes.items():
        parts = path.split(".")
        node: Any = data
        node_type: Any = type(config)
        for depth, part in enumerate(parts):
            names = [field.name for field in dataclasses.fields(node_type)]
            if part not in names:
                raise _unknown_key(path, part, names)
            if depth == len(parts) - 1:
                if dataclasses.is_dataclass(value) and not isinstance(value, type):
                    value = to_dict(value)
                node[part] = value
                break
            hint = _type_hints(node_type)[part]
            inner = [t for t in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(t)]
            if not inner:
                raise ConfigError(f"'{path}': '{part}' is a single value and has no keys below it")
            node_type = inner[0]
            if node[part] is None:
                node[part] = {}
            node = node[part]
    return from_dict(type(config), data)


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Read ``key=value`` texts of the command line; values are YAML (1e-3, true, [1, 2], text)."""
    changes: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"cannot read '{text}': expected key=value, for example seed=1")
        try:
            changes[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"cannot read the value of '{text}': {error}") from error
    return changes


def config_hash(config: Any, length: int = 10) -> str:
    """Hexadecimal digest of the resolved config; equal configs give equal digests on any machine."""
    text = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _unknown_key(path: str, key: str, names: list[str]) -> ConfigError:
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    prefix = path.removesuffix(key) if path.endswith(key) else ""
    hint = f"did you mean '{prefix}{near[0]}'?" if near else f"known keys: {', '.join(names)}"
    return ConfigError(f"unknown key '{path}': {hint}")


def _convert(value: Any, hint: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        failures = []
        for option in (o for o in options if o is not type(None)):
            try:
                return _convert(value, option, path)
            except ConfigError as error:
                failures.append(error)
        raise failures[0] if len(failures) == 1 else _wrong(path, hint, value)
    if origin is typing.Literal:
        options = typing.get_args(hint)
        if value in options and type(value) in {type(o) for o in options}:
            return value
        near = difflib.get_close_matches(str(value), [str(o) for o in options], n=1)
        hint_text = f" (did you mean {near[0]!r}?)" if near else ""
        choices = ", ".join(repr(o) for o in options)
        raise ConfigError(f"'{path}': expected one of {choices}, got {value!r}{hint_text}")
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise _wrong(path, hint, value)
        inner = typing.get_args(hint)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_convert(v, inner[0], f"{path}[{i}]") for i, v in enumerate(value))
        if len(value) != len(inner):
            raise _wrong(path, hint, value)
        return tuple(
            _convert(v, t, f"{path}[{i}]")
            for i, (v, t) in enumerate(zip(value, inner, strict=True))
        )
    if dataclasses.is_dataclass(hint):
        cls = typing.cast(type, hint)
        return value if isinstance(value, cls) else from_dict(cls, value, path)
    if hint is float and not isinstance(value, bool):
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str):  # YAML 1.1 reads 1e-3 (no dot) as text
            try:
                return float(value)
            except ValueError:
                pass
        raise _wrong(path, hint, value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str):
        return value
    raise _wrong(path, hint, value)


def _wrong(path: str, hint: Any, value: Any) -> ConfigError:
    name = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    return ConfigError(f"'{path}': expected {name}, got {value!r} ({type(value).__name__})")
