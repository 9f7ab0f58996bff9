"""The Gower-type distance of two rows, column by column, in plain Python."""

import math
import statistics


def is_missing(value):
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def scale_and_median(values, categorical):
    """Return the range and the median of the numbers of a column of the training set."""
    known = [value for value in values if not is_missing(value)]
    if categorical or not known:
        return 1.0, 0.0
    return (max(known) - min(known)) or 1.0, statistics.median(known)


def distance(a, b, categorical, scales, medians):
    """Return the mean over columns of what two rows differ by.

    Args:
        a: a row, a list of values.
        b: another.
        categorical: for each column, whether its values are categories.
        scales: for each column of numbers.
        medians: for each column of numbers.
    """
    total = 0.0
    for x, y, is_text, scale, median in zip(a, b, categorical, scales, medians, strict=True):
        if is_missing(x) and is_missing(y):
            continue
        if is_text:
            total += 0.0 if not is_missing(x) and not is_missing(y) and x.strip() == y.strip() else 1.0
        elif is_missing(x) or is_missing(y):
            there = y if is_missing(x) else x
            total += 1 + ((there - median) / scale) ** 2
        else:
            total += ((x - y) / scale) ** 2
    return total / len(a)
