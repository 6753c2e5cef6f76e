"""Ranges and choices declared beside the field they bound, checked in one place.

`option(default, low=..., high=...)` declares a dataclass field; `validate(instance)` raises a one-line `UserError` that names the
field, its value and what is allowed. Works for frozen `Config` dataclasses and for `flax.struct` `Hyper` dataclasses.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Sequence
from typing import Any, get_args, get_origin, get_type_hints

from causal_jax.types import UserError


def option(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[Any, ...] | None = None,
) -> Any:
    """A dataclass field with bounds: low <= x <= high, above < x < below, or x in choices (sequences: every element)."""
    bounds = {"low": low, "high": high, "above": above, "below": below, "choices": choices}
    return dataclasses.field(default=default, metadata={k: v for k, v in bounds.items() if v is not None})


def allowed_text(metadata: Any) -> str:
    """The bounds of a field in words, e.g. "0 < x <= 1"; empty when it has none."""
    if "choices" in metadata:
        return "one of " + ", ".join(map(str, metadata["choices"]))
    lower = f"{metadata['low']} <= " if "low" in metadata else f"{metadata['above']} < " if "above" in metadata else ""
    upper = f" <= {metadata['high']}" if "high" in metadata else f" < {metadata['below']}" if "below" in metadata else ""
    return f"{lower}x{upper}" if lower or upper else ""


def _outside(value: Any, metadata: Any) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return True
    if "choices" in metadata:
        return value not in metadata["choices"]
    if isinstance(value, int) and "high" not in metadata and abs(value) >= 2**31:
        return True
    return bool(
        ("low" in metadata and value < metadata["low"])
        or ("high" in metadata and value > metadata["high"])
        or ("above" in metadata and value <= metadata["above"])
        or ("below" in metadata and value >= metadata["below"])
    )


def _wide(value: Any) -> str:
    return ", less than 2^31" if isinstance(value, int) and abs(value) >= 2**31 else ""


_NUMBERS = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}


def _wrong_type(value: Any, hint: Any) -> bool:
    if hint in _NUMBERS:
        return not isinstance(value, _NUMBERS[hint]) or (hint is not bool and isinstance(value, bool))
    if get_origin(hint) is tuple and len(get_args(hint)) == 2 and get_args(hint)[1] is Ellipsis:
        return not isinstance(value, tuple | list) or any(_wrong_type(v, get_args(hint)[0]) for v in value)
    return False


def validate(instance: Any, prefix: str = "") -> None:
    """Check every field of a dataclass instance against its type and its declared bounds.

    Args: instance: a dataclass of ints, floats, bools, strings and tuples of them. prefix: how the user names the instance, e.g. "hyper.".
    Raises: UserError, one line: `hyper.lr = -1.0: must be 0 < x`.
    """
    hints = get_type_hints(type(instance))
    for f in dataclasses.fields(instance):
        value, hint = getattr(instance, f.name), hints.get(f.name)
        if _wrong_type(value, hint):
            name = getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint)
            raise UserError(f"{prefix}{f.name} = {value!r}: must be of type {name}")
        for v in value if isinstance(value, tuple | list) else (value,):
            if _outside(v, f.metadata):
                raise UserError(f"{prefix}{f.name} = {value!r}: must be {allowed_text(f.metadata) or 'finite'}{_wide(v)}")


def suggest(name: str, names: Sequence[str]) -> str:
    """What to tell a user who asked for an unknown `name`: the nearest of `names`, or all of them if none is near."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"unknown, did you mean {', '.join(near)}?" if near else f"unknown, must be one of {', '.join(names)}"
