"""Files to load, and what a refusal must look like; used by the tests of loading."""

import numpy as np
import pytest

from genmem.data import load
from genmem.errors import DataError


def text_file(path, text):
    path.write_text(text)
    return path


def idx_bytes(array):
    codes = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}
    head = bytes([0, 0, codes[array.dtype.str[1:]], array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def refused(message, source, **options):
    with pytest.raises(DataError, match=message) as error:
        load(source, **options)
    assert error.value.do.endswith(".")
    assert str(error.value).startswith("Expected ")
