"""Checks of single values that users give, and how an error shows them."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

from predictor.errors import InvalidRequest, plain_line

LARGEST = 2**31


def whole_number(name: str, value: Any) -> int:
    """value as an int of 1 to 2**31; anything else raises InvalidRequest.

    >>> whole_number("batch", 8)
    8
    """
    if type(value) is int and 1 <= value <= LARGEST:
        return value
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) > LARGEST:
        raise InvalidRequest(f"{name} is {show(value)}; it must be a whole number from 1 to 2**31.")
    if int(value) < 1:
        raise InvalidRequest(f"{name} is {show(value)}; it must be at least 1.")
    return int(value)


def show(value: object) -> str:
    """A value, short enough for an error of one line."""
    if isinstance(value, str):
        return f'"{value[:60].encode("unicode_escape").decode()[:60]}"'
    if isinstance(value, int) and value.bit_length() > 128:  # str() of an int of many digits raises
        return f"a number of {value.bit_length()} bits"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def time_text(seconds: float) -> str:
    """Seconds for a sentence, with a unit that suits them.

    >>> time_text(2.314), time_text(0.04), time_text(12345.6)
    ('2.31 s', '40 ms', '12346 s')
    """
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def share_text(share: float) -> str:
    """A share for a sentence.

    >>> share_text(0.8), share_text(0.999)
    ('80 %', '99.9 %')
    """
    return f"{100 * share:.3g} %"


def one_line(error: Exception | str) -> str:
    """What an error says, on one line, whatever the value that it names holds.

    >>> one_line("family is a\\nb; choose another.")
    'family is a b; choose another.'
    """
    return plain_line(str(error))


def nearest_names(name: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Up to `most` known names that a wrong one may mean, nearest first."""
    from difflib import get_close_matches  # few calls end in an error

    return get_close_matches(name, list(known), n=most, cutoff=cutoff)


def did_you_mean(name: str, known: Iterable[str], otherwise: str, quote: str = "", cutoff: float = 0.6) -> str:
    """The cure of a wrong name: the nearest known one as a question; where none is near, `otherwise`.

    >>> did_you_mean("bacth", ("batch", "input_len"), "see Request.")
    'did you mean batch?'
    """
    near = nearest_names(name, known, cutoff=cutoff)
    return f"did you mean {quote}{near[0]}{quote}?" if near else otherwise
