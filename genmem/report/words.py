"""Numbers as text. Every function returns words for None and NaN, never "nan"."""

import math
from collections.abc import Mapping, Sequence
from typing import TypeGuard

MISSING = "not available"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def known(value: float | None) -> TypeGuard[float]:
    """Return whether a number is defined."""
    return value is not None and math.isfinite(value)


def missing(one_repeat: bool) -> str:
    """Return the words for a missing number, with the reason if the design has one repeat.

    >>> missing(True)
    'not available (one repeat)'
    """
    return f"{MISSING} (one repeat)" if one_repeat else MISSING


def number(value: float | None, missing: str = MISSING) -> str:
    """Format a value with three significant digits, whole numbers without decimals, with a true minus sign.

    Values below 10⁻⁹ count as rounding errors of zero.

    >>> number(-8.1), number(1797), number(0.05), number(0.0000123), number(6e-18), number(float("nan"))
    ('−8.10', '1,797', '0.05', '1.2×10⁻⁵', '0', 'not available')
    """
    if not known(value):
        return missing
    if abs(value) < 1e-9:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        return _scientific(value)
    text = _decimal(value, 0 if value == int(value) else _decimals(value))
    return text.rstrip("0") if 0 < abs(value) < 1 else text


def fixed(value: float | None, missing: str = "n/a") -> str:
    """Format a value with two decimals, for aligned columns.

    >>> fixed(-1234.5), fixed(None)
    ('−1,234.50', 'n/a')
    """
    return _decimal(value, 2) if known(value) else missing


def probability(value: float | None, missing: str = MISSING) -> str:
    """Format a p- or q-value.

    >>> probability(0.031), probability(3e-9), probability(0.0)
    ('0.031', '3×10⁻⁹', '< 10⁻³⁰⁰')
    """
    if not known(value):
        return missing
    if value < 1e-300:
        return "< 10⁻³⁰⁰"
    return _scientific(value) if value < 1e-4 else f"{value:.2g}"


def interval(bounds: Sequence[float] | None, missing: str = MISSING, decimals: int | None = None) -> str:
    """Format an interval, both ends with the same number of decimals: those given, or enough for three digits.

    >>> interval([-0.04, 8.5]), interval([0.0, 0.2]), interval([0.0, 0.2], decimals=2), interval(None)
    ('−0.04 to 8.50', '0.0 to 0.2', '0.00 to 0.20', 'not available')
    """
    if not bounds or not all(known(bound) for bound in bounds):
        return missing
    if decimals is not None:
        return " to ".join(_decimal(bound, decimals) for bound in bounds)
    decimals = _decimals(max(bounds, key=abs))
    while decimals and all(_decimal(bound, decimals).endswith("0") for bound in bounds):
        decimals -= 1
    return " to ".join(_decimal(bound, decimals) for bound in bounds)


def share(part: int, whole: int) -> str:
    """Format a share as a percentage.

    >>> share(933, 1797), share(1, 60000), share(0, 5)
    ('52%', '0.0017%', '0%')
    """
    percent = 100 * part / whole
    return f"{percent:.0f}%" if percent >= 10 or part == 0 else f"{percent:.2g}%"


def duration(seconds: float) -> str:
    """Format a duration.

    >>> duration(0.4), duration(130), duration(7320)
    ('0.4 s', '2 min 10 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def roughly(seconds: float) -> str:
    """Format a duration that is an estimate.

    >>> roughly(0.4), roughly(130), roughly(7320)
    ('1 s', '2 min', '2.0 hours')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def size(count: float) -> str:
    """Format a number of bytes.

    >>> size(5e6), size(3e9)
    ('5 MiB', '2.8 GiB')
    """
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"


def nearest(rank: int) -> str:
    """Name a neighbour by its rank, counted from 1.

    >>> nearest(1), nearest(2), nearest(5), nearest(21)
    ('nearest', '2nd nearest', '5th nearest', '21st nearest')
    """
    if rank == 1:
        return "nearest"
    ending = "th" if rank % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{ending} nearest"


def quoted(name: str, width: int = 60) -> str:
    """Format a name from the data for use in a sentence: in quotes unless it is one plain word, cut to `width`.

    >>> quoted("8"), quoted("tabby cat"), quoted("x" * 9, 5)
    ('8', '“tabby cat”', '“xxxx…”')
    """
    if len(name) > width:
        name = name[: width - 1] + "…"
    return name if name.isalnum() else f"“{name}”"


def plain(value: object) -> str:
    """Format a setting in plain words; a long list by its beginning and its length.

    >>> plain([64, 128]), plain({"a": 5}), plain(None), plain(True), plain(range(90))
    ('64, 128', 'a 5', 'none', 'yes', '0, 1, 2, 3, 4, 5, 6, 7, ... (90 in all)')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple | range):
        more = f", ... ({len(value)} in all)" if len(value) > 12 else ""
        return ", ".join(plain(item) for item in value[: 8 if more else None]) + more or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def design(settings: Mapping[str, object]) -> str:
    """Describe the design of the refits.

    >>> design({"kind": "k_fold", "folds": 5, "repeats": 8})
    '5 folds × 8 repeats, 40 refits'
    >>> design({"kind": "subsets", "fraction": 0.7, "n_splits": 40, "repeats": 40})
    '40 refits, each on 70% of the examples'
    """
    folds, repeats = settings.get("folds"), settings.get("repeats")
    if isinstance(folds, int) and isinstance(repeats, int):
        return f"{folds} folds × {repeats} repeat{'s' * (repeats != 1)}, {folds * repeats} refits"
    refits, fraction = f"{settings.get('n_splits')} refits", settings.get("fraction")
    return f"{refits}, each on {fraction:.0%} of the examples" if isinstance(fraction, float) else refits


def _decimals(value: float) -> int:
    return max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0  # for three significant digits


def _decimal(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def _scientific(value: float) -> str:
    digits, power = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}×10{str(int(power)).translate(_SUPERSCRIPT)}".replace("-", "−")
