"""S6Config refuses what cannot be and says what would be valid."""

import pytest

from ssmlab.core.config import from_dict
from ssmlab.core.errors import ConfigError
from ssmlab.mixers.s6_config import S6Config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"d_state": 0}, r"d_state.*>= 1.*0"),
        ({"d_state": True}, r"d_state"),
        ({"dt_rank": 0}, r"dt_rank.*>= 1"),
        ({"dt_rank": "automatic"}, r"'auto'.*'automatic'"),
        ({"a_init": "s4d-inv"}, r"a_init.*'s4d-real'.*'s4d-inv'"),
        ({"dt_min": 0.2, "dt_max": 0.1}, r"dt_min=0.2.*dt_max=0.1"),
        ({"dt_max": float("nan")}, r"dt_max.*finite"),
        ({"a_init": "s4d-lin", "d_state": 5}, r"conjugate pairs.*even.*6"),
    ],
)
def test_impossible_values_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        S6Config(**values)


def test_misspelt_key_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'selective_delta'"):
        from_dict(S6Config, {"selective_dleta": False})


def test_only_s4d_lin_is_complex():
    complex_ones = {
        a: S6Config(a_init=a).is_complex
        for a in ("s4d-real", "s4d-lin", "s4d-lin-printed", "constant", "random")
    }
    assert [a for a, is_complex in complex_ones.items() if is_complex] == [
        "s4d-lin",
        "s4d-lin-printed",
    ]
