"""Tensors and sparse matrices as other tools save them; nothing is unpickled."""

import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from safetensors.torch import save_file
from sources import refused

from genmem.data import load

X = torch.arange(12, dtype=torch.float32).reshape(4, 3)


@pytest.mark.parametrize("end", ["safetensors", "pt", "pth"])
def test_tensors_by_name(tmp_path, end):
    path, tensors = tmp_path / f"t.{end}", {"x": X, "y": torch.tensor([0, 1, 0, 1])}
    save_file(tensors, path) if end == "safetensors" else torch.save(tensors, path)
    for array in (None, "x"):  # the only one with rows of values
        data = load(path, array=array, label_array="y")
        np.testing.assert_array_equal(data.X, X)
        assert data.labels.tolist() == [0, 1, 0, 1]
    refused(r"a tensor in .*x \(4, 3\).*got 'z'", path, array="z")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64])
def test_types_of_tensors(tmp_path, kind):
    torch.save(X.to(kind), tmp_path / "t.pt")
    found = load(tmp_path / "t.pt").X
    np.testing.assert_array_equal(found.astype(np.float32), X)
    assert found.dtype == np.float32  # bytes up to 11 are numbers


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/genmem-was-here", "w"))


def test_no_code_runs(tmp_path):
    path = tmp_path / "t.pt"
    torch.save({"x": Evil()}, path)
    refused("without running its code", path)
    path.write_bytes(pickle.dumps(Evil()))
    refused("without running its code", path)
    torch.save([1, 2], path)
    refused("a list of other values", path)
    (tmp_path / "t.safetensors").write_bytes(b"nonsense")
    refused("undamaged .safetensors file", tmp_path / "t.safetensors")


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr"])
def test_sparse_matrices(tmp_path, form):
    matrix = scipy.sparse.random(20, 9, 0.3, format=form, random_state=0)
    scipy.sparse.save_npz(tmp_path / "t.npz", matrix)
    data = load(tmp_path / "t.npz")
    np.testing.assert_array_equal(data.X, matrix.toarray().astype(np.float32))
    assert data.notes == ("A sparse matrix was made dense.",)
    refused("one sparse matrix of scipy; got 'data'. Drop --array", tmp_path / "t.npz", array="data")


def test_a_huge_sparse_matrix_is_refused(tmp_path):
    scipy.sparse.save_npz(tmp_path / "t.npz", scipy.sparse.csr_matrix((100_000, 100_000)))
    refused("74.5 GiB.*fewer columns", tmp_path / "t.npz")
