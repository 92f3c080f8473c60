"""Checks of arguments from outside: what passes comes back clean, what does not is one sentence."""

from collections.abc import Sequence
from typing import Any

from mmdemo.errors import ArgumentError


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number in [low, high]; 3.0 is one, True is not.  Raises ArgumentError."""
    if not _is_number(value) or not low <= value <= high or value != int(value):
        raise ArgumentError(f"{name} is {shown(value)}; it must be a whole number from {low} to {high}")
    return int(value)


def number(name: str, value: Any, low: float, high: float) -> float:
    """A number in [low, high], so neither infinite nor NaN.  Raises ArgumentError."""
    if not _is_number(value) or not low <= value <= high:
        raise ArgumentError(f"{name} is {shown(value)}; it must be a number from {low:g} to {high:g}")
    return float(value)


def interval(name: str, value: Any) -> tuple[float, float]:
    """Two noise levels, the lower first.  Raises ArgumentError."""
    two = isinstance(value, (list, tuple)) and len(value) == 2
    if not two or not all(_is_number(level) and 0 <= level <= 1 for level in value) or value[0] > value[1]:
        raise ArgumentError(
            f"{name} is {shown(value)}; it must be two noise levels from 0 to 1, the lower first, such as [0.2, 0.8]"
        )
    return float(value[0]), float(value[1])


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """One of the allowed words.  Raises ArgumentError."""
    if not isinstance(value, str) or value not in allowed:
        raise ArgumentError(f"{name} is {shown(value)}; it must be one of {', '.join(allowed)}")
    return value


def shown(value: Any) -> str:
    """A value as an error shows it: never pages long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits, or lists within lists without end
        text = f"{type(value).__name__} too large to be shown"
    return text if len(text) <= 60 else text[:57] + "…"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
