import dataclasses
import math
import re
from typing import Any

import flax.struct
import pytest

from causal_jax.fields import allowed_text, option, validate
from causal_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Config:
    num: int = option(4, low=1)
    share: float = option(0.5, low=0.0, high=1.0)
    lr: float = option(1e-3, above=0.0)
    gamma: float = option(0.9, low=0.0, below=1.0)
    angle: float = option(0.0, above=-1.0, below=1.0)
    top: int = option(3, high=9)
    under: int = option(3, below=9)
    mode: str = option("definition", choices=("definition", "authors"))
    size: int = option(8, choices=(8, 16))
    hidden: tuple[int, ...] = option((64, 64), low=1)
    rates: tuple[float, ...] = option((0.1,), above=0.0)
    flag: bool = False
    free: float = 0.0
    name: str = "x"


BAD: list[tuple[str, Any, str]] = [
    ("num", 0, "num = 0: must be 1 <= x"),
    ("share", 1.5, "share = 1.5: must be 0.0 <= x <= 1.0"),
    ("share", -0.5, "share = -0.5: must be 0.0 <= x <= 1.0"),
    ("lr", 0.0, "lr = 0.0: must be 0.0 < x"),
    ("lr", math.nan, "lr = nan: must be 0.0 < x"),
    ("lr", math.inf, "lr = inf: must be 0.0 < x"),
    ("gamma", 1.0, "gamma = 1.0: must be 0.0 <= x < 1.0"),
    ("angle", -1.0, "angle = -1.0: must be -1.0 < x < 1.0"),
    ("angle", 1, "angle = 1: must be -1.0 < x < 1.0"),
    ("top", 10, "top = 10: must be x <= 9"),
    ("under", 9, "under = 9: must be x < 9"),
    ("mode", "paper", "mode = 'paper': must be one of definition, authors"),
    ("size", 9, "size = 9: must be one of 8, 16"),
    ("hidden", (64, 0), "hidden = (64, 0): must be 1 <= x"),
    ("rates", (0.1, math.nan), "rates = (0.1, nan): must be 0.0 < x"),
    ("free", math.inf, "free = inf: must be finite"),
    ("num", 2.0, "num = 2.0: must be of type int"),
    ("num", True, "num = True: must be of type int"),
    ("num", "4", "num = '4': must be of type int"),
    ("num", None, "num = None: must be of type int"),
    ("share", "0.5", "share = '0.5': must be of type float"),
    ("share", True, "share = True: must be of type float"),
    ("flag", 1, "flag = 1: must be of type bool"),
    ("name", 3, "name = 3: must be of type str"),
    ("hidden", 64, "hidden = 64: must be of type tuple[int, ...]"),
    ("hidden", (64, 1.5), "hidden = (64, 1.5): must be of type tuple[int, ...]"),
]


@pytest.mark.parametrize(("field", "value", "message"), BAD)
def test_bad_values_are_told_in_one_line(field: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        validate(dataclasses.replace(Config(), **{field: value}))
    with pytest.raises(UserError, match=f"^{re.escape('config.' + message)}$"):
        validate(dataclasses.replace(Config(), **{field: value}), "config.")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num", 1),
        ("share", 0.0),
        ("share", 1),
        ("gamma", 0),
        ("top", 9),
        ("under", 8),
        ("mode", "authors"),
        ("size", 16),
        ("hidden", ()),
        ("hidden", [32]),
        ("rates", (1, 2.5)),
        ("flag", True),
        ("free", -1e30),
    ],
)
def test_the_edges_are_allowed(field: str, value: Any) -> None:
    validate(dataclasses.replace(Config(), **{field: value}))


@flax.struct.dataclass
class Hyper:
    lr: float = option(3e-4, above=0.0)


def test_flax_struct_dataclasses() -> None:
    validate(Hyper())
    with pytest.raises(UserError, match=r"^hyper.lr = -1.0: must be 0.0 < x$"):
        validate(Hyper(lr=-1.0), "hyper.")


def test_the_bounds_in_words() -> None:
    texts = {f.name: allowed_text(f.metadata) for f in dataclasses.fields(Config)}
    assert (texts["gamma"], texts["mode"], texts["free"]) == ("0.0 <= x < 1.0", "one of definition, authors", "")
    assert Config().gamma == 0.9
