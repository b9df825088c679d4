"""Checks that the configs of mixers, blocks and models share; each error says what would be valid."""

import math
from typing import Any

from ssmlab.core.errors import ConfigError


def check_positive_int(owner: str, **values: Any) -> None:
    """Refuse every value that is not an int >= 1, naming the field.

    Raises:
        ConfigError: the first offending field.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{owner}.{name}: expected a whole number >= 1, got {value!r}")


def check_positive_float(owner: str, **values: Any) -> None:
    """Refuse every value that is not a finite number > 0, naming the field.

    Raises:
        ConfigError: the first offending field.
    """
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value <= 0:
            raise ConfigError(f"{owner}.{name}: expected a finite number > 0, got {value!r}")


def check_choice(owner: str, name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse a value outside ``choices``.

    Raises:
        ConfigError: with the valid choices.
    """
    if value not in choices:
        valid = ", ".join(repr(c) for c in choices)
        raise ConfigError(f"{owner}.{name}: expected one of {valid}, got {value!r}")
