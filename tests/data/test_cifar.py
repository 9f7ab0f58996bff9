"""The binary files of CIFAR, and files of other kinds: read, or refused by what they are."""

import gzip
import tarfile
import zipfile

import numpy as np
import pytest
from sources import idx_bytes, refused

from genmem.data import load
from genmem.data.three_sets import load_three

PICKLE = b"\x80\x02}q\x01X\x04\x00\x00\x00dataq\x02K\x01s."  # {"data": 1}
RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


def records(*labels):
    """Return records of CIFAR, pixel by pixel: red, green, blue planes after the labels."""
    out = bytearray()
    for image, of_one in zip(X, zip(*labels, strict=True), strict=True):
        out += bytes(of_one)
        for channel in range(3):
            for row in range(32):
                out += bytes(int(image[row, column, channel]) for column in range(32))
    return bytes(out)


def test_cifar_10(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(records([3, 0, 9, 1]))
    data = load(tmp_path / "data_batch_1.bin")
    np.testing.assert_array_equal(data.X, X)
    assert data.labels.tolist() == [3, 0, 9, 1] and data.image_shape == (32, 32, 3)
    assert data.notes == ("Labels are the first byte of each record, of CIFAR-10.",)
    assert load(tmp_path / "data_batch_1.bin", labels=[1, 2, 3, 4]).labels.tolist() == [1, 2, 3, 4]
    sets = load_three(tmp_path / "data_batch_1.bin", X, X[:2])
    assert sets.image_shape == (32, 32, 3) and sets.notes["train"] == data.notes


def test_cifar_100(tmp_path):
    (tmp_path / "train.bin").write_bytes(records([1, 2, 3, 4], [99, 0, 50, 7]))
    data = load(tmp_path / "train.bin")
    np.testing.assert_array_equal(data.X, X)
    assert data.labels.tolist() == [99, 0, 50, 7] and "coarse" in data.notes[0]


def test_other_files_named_bin(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(records([3, 0, 10, 1]))
    refused("labels below 10, or 20 and 100", path)
    path.write_bytes(records([3, 0, 9, 1])[:-1])
    refused("12,291 bytes that are not such records", path)
    path.write_bytes(b"")
    refused("x.bin, 0 bytes", path)
    path.write_bytes(idx_bytes(X))
    np.testing.assert_array_equal(load(path).X, X)
    path.rename(tmp_path / "data_batch_2.bin")
    refused("got none; 1 file skipped.*Pass one .bin file of CIFAR", tmp_path)


# --- what is not read


def test_pickles_are_refused_by_name(tmp_path):
    cifar = 'Pass the "binary version" of CIFAR'
    for name, do in (("data_batch_1", cifar), ("x", "Save its array"), ("y.pkl", "Save its array")):
        (tmp_path / name).write_bytes(PICKLE)
        refused(f"{name}, which is a Python pickle.*never loaded. {do}", tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pt", b"PK\x03\x04", "without running its code.*Save the tensor"),
        ("a.zip", None, "an archive. Unpack it"),
        ("a.tar.gz", None, "an archive. Unpack it"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "an HDF5 file. Save its array"),
        ("a.mat", b"MATLAB 5.0 MAT-file", "a MATLAB file"),
        ("a.arrow", b"ARROW1\0\0", "an Arrow file. Save it as .parquet"),
        ("a", b"PAR1....", "a Parquet file. Rename it"),
        ("a.x", b"what is this?", "got .*a.x. Save the examples"),
    ],
)
def test_files_are_refused_by_what_they_are(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    elif name.endswith("zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("1.png", "x")
    else:
        (tmp_path / "1.png").touch()
        with tarfile.open(path, "w:gz") as archive:
            archive.add(tmp_path / "1.png", "1.png")
    refused(message, path)


def test_gzipped_idx_files_are_still_read(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(idx_bytes(X)))
    np.testing.assert_array_equal(load(tmp_path / "x.gz").X, X)
