"""Configs: read, overridden, written, hashed; and what is said of mistakes."""

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmlab.core.config import config_hash, from_dict, override, parse_assignments, to_dict
from ssmlab.core.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    width: int = 4
    rate: float = 0.5
    kind: Literal["left", "right"] = "left"
    rank: int | Literal["auto"] = "auto"


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    extra: Inner | None = None
    sizes: tuple[int, ...] = ()
    pair: tuple[float, float] = (0.9, 0.95)
    flag: bool = False

    def __post_init__(self) -> None:
        if self.pair[0] > self.pair[1]:
            raise ConfigError("pair: expected the smaller first")


@given(
    st.builds(
        Outer,
        name=st.text(),
        inner=st.builds(
            Inner,
            width=st.integers(),
            rate=st.floats(allow_nan=False, allow_infinity=False),
            rank=st.one_of(st.just("auto"), st.integers()),
        ),
        extra=st.one_of(st.none(), st.builds(Inner)),
        sizes=st.lists(st.integers()).map(tuple),
        flag=st.booleans(),
    )
)
def test_what_is_written_is_read_back(config):
    again = from_dict(Outer, to_dict(config))
    assert again == config
    assert config_hash(again) == config_hash(config)


def test_the_hash_tells_configs_apart():
    assert config_hash(Outer("a")) != config_hash(Outer("b"))
    assert config_hash(Outer("a", inner=Inner(width=5))) != config_hash(Outer("a"))


def test_overriding_reaches_into_configs_and_leaves_the_given_one_alone():
    config = Outer("a")
    changed = override(config, {"inner.width": 9, "extra.kind": "right", "sizes": [1, 2]})
    assert (changed.inner.width, changed.extra, changed.sizes) == (9, Inner(kind="right"), (1, 2))
    assert config == Outer("a")


def test_changes_that_are_only_valid_together_apply_together():
    changed = override(Outer("a"), {"pair": [2.0, 3.0]})
    assert changed.pair == (2.0, 3.0)
    with pytest.raises(ConfigError, match="smaller first"):
        override(Outer("a"), {"pair": [3.0, 2.0]})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inner.widht": 1}, "did you mean 'inner.width'"),
        ({"iner.width": 1}, "'iner.width': did you mean 'inner'"),
        ({"nothing_like_it": 1}, "known keys: name, inner"),
        ({"inner.width": 1.5}, r"'inner.width': expected int, got 1.5 \(float\)"),
        ({"inner.width": True}, "expected int, got True"),
        ({"inner.rate": "fast"}, "expected float, got 'fast'"),
        ({"inner.kind": "lft"}, "did you mean 'left'"),
        ({"inner.rank": "aut"}, "inner.rank"),
        ({"inner": 3}, "inner: expected a mapping"),
        ({"sizes": [1, "x"]}, r"sizes\[1\]"),
        ({"sizes": "12"}, "sizes"),
        ({"pair": [1.0]}, "pair"),
        ({"flag": 1}, "expected bool"),
        ({"name.length": 1}, "single value"),
    ],
)
def test_a_mistake_names_the_key_and_what_was_expected(changes, said):
    with pytest.raises(ConfigError, match=said):
        override(Outer("a"), changes)


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match="missing key 'name'"):
        from_dict(Outer, {})


def test_assignments_are_yaml():
    given = ["a=1", "b.c=1e-3", "d=[1, 2]", "e=text", "f=true", "g=", "h=x=y"]
    read = parse_assignments(given)
    assert read == {
        **{"a": 1, "b.c": "1e-3", "d": [1, 2], "e": "text"},
        **{"f": True, "g": None, "h": "x=y"},
    }
    # YAML reads 1e-3, without a dot, as text; a field of floats takes it all the same.
    assert override(Inner(), {"rate": read["b.c"]}).rate == 1e-3


@pytest.mark.parametrize("text", ["steps", "=3", "a=[1"])
def test_an_assignment_that_cannot_be_read_is_an_error(text):
    with pytest.raises(ConfigError, match="cannot read"):
        parse_assignments([text])
