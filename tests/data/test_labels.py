"""Labels from arrays and files: integers, booleans or text, one to an example."""

import numpy as np
import pytest
from sources import idx_bytes, refused, text_file

from genmem.data import load


def test_labels_of_every_form(tmp_path):
    X, expected = np.eye(3), np.array([3, 1, 2])
    np.save(tmp_path / "y.npy", expected[:, None].astype(float))
    text_file(tmp_path / "y.txt", "3\n1\n2\n")
    text_file(tmp_path / "y.csv", "y\n3\n1\n2\n")
    (tmp_path / "y-idx1").write_bytes(idx_bytes(expected.astype(np.uint8)))
    for labels in (expected, [3, 1, 2], *(tmp_path / name for name in ("y.npy", "y.txt", "y.csv", "y-idx1"))):
        found = load(X, labels=labels).labels
        np.testing.assert_array_equal(found, expected)
        assert found.dtype.kind in "iu"


def test_labels_of_text_and_booleans(tmp_path):
    X = np.eye(3)
    text = text_file(tmp_path / "y.txt", "cat\n7\ndog\n")
    forms = [["cat", "7", "dog"], np.array(["cat", "7", "dog"], object), np.array([b"cat", b"7", b"dog"]), str(text)]
    for labels in forms:
        found = load(X, labels=labels).labels
        assert found.dtype.kind == "U" and found.tolist() == ["cat", "7", "dog"]
    assert load(X, labels=[True, False, True]).labels.dtype == bool
    assert load(X, labels=np.array([1, 2, 3], object)).labels.dtype.kind == "i"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 2], r"3 examples; got shape \(2,\) from an array"),
        (np.eye(3), r"got shape \(3, 3\)"),
        ([1, 2.5, 3], "such as 1.0"),
        ([1, np.nan, 3], "such as nan"),
        ([1, None, 3], "dtype object"),
        (["a", " ", "c"], "1 blank .*row 1"),
        ([1j, 2, 3], "complex"),
        ("missing.csv", "nothing there"),
    ],
)
def test_refused_labels(labels, message):
    refused(message, np.eye(3), labels=labels)


def test_refused_label_files(tmp_path):
    X = np.eye(3)
    refused(r"got shape \(2,\) from .*y.csv.*first line", X, labels=text_file(tmp_path / "y.csv", "a\nb\nc\n"))
    refused("2 columns: a, b", X, labels=text_file(tmp_path / "y2.csv", "a,b\n1,2\n3,4\n5,6\n"))
    refused("1 blank .*row 1", X, labels=text_file(tmp_path / "y.txt", "a\n\nc\n"))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    refused("undamaged .txt file", X, labels=tmp_path / "bytes.txt")
    np.savez(tmp_path / "y.npz", y=np.arange(3))
    refused("labels in a .npy, .csv, .txt or IDX file", X, labels=tmp_path / "y.npz")
    refused("labels in a .npy, .csv, .txt or IDX file", X, labels=tmp_path)
    table = text_file(tmp_path / "t.csv", "a,y\n1,2\n3,4\n")
    refused("from one source; got 'y' and an array", table, label_column="y", labels=[1, 2])
