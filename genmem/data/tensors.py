"""Arrays in files of tensors: .safetensors, .pt and .pth (weights only, nothing is unpickled), and sparse .npz."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genmem.errors import DataError

_OF_LAYERS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked", "in_proj_weight", "in_proj_bias"}
SUFFIXES = (".safetensors", ".pt", ".pth")
MOST_DENSE = 4 << 30  # bytes of a sparse matrix that is made dense


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors of a file by name; a single tensor of a .pt file is called "tensor".

    Raises:
        DataError: a .pt file holds anything but tensors. Damaged files raise errors of their libraries.
    """
    import torch

    if path.suffix.lower() == ".safetensors":
        from safetensors.torch import load_file

        found: Any = load_file(path)
    else:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # of pickle, zipfile or torch: the file would run code, or is damaged
            raise DataError(
                expected=f"tensors in {path}",
                got=f"a file that cannot be read without running its code ({type(error).__name__})",
                do="Save the tensor alone: torch.save(tensor, path), or numpy.save(path, tensor.numpy()).",
            ) from error
    found = {"tensor": found} if isinstance(found, torch.Tensor) else found
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise DataError(
            expected=f"a tensor, or tensors by name, in {path}",
            got=f"a {type(found).__name__} of other values",
            do="Save the tensor alone: torch.save(tensor, path).",
        )
    _refuse_weights(found, path)
    return {str(name): _as_array(value, path) for name, value in found.items()}


def _refuse_weights(found: dict[str, Any], path: Path) -> None:
    names = [str(name).rpartition(".")[2] for name in found]
    if "weight" in names and set(names) <= _OF_LAYERS:
        raise DataError(
            expected=f"examples in {path}",
            got=f"weights of a network: {', '.join(sorted(map(str, found))[:6])}",
            do="Save the tensor of examples: torch.save(tensor, path).",
        )


def _as_array(tensor: Any, path: Path) -> NDArray[Any]:
    import torch

    whole = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
    small = whole.is_floating_point() and whole.dtype not in (torch.float32, torch.float64)
    try:
        return np.asarray((whole.float() if small else whole).numpy())
    except TypeError as error:  # numpy has no such type
        raise DataError(
            expected=f"tensors of ordinary numbers in {path}",
            got=f"{whole.dtype}",
            do="Convert the tensor: tensor.dequantize() or tensor.float().",
        ) from error


def is_sparse(names: set[str]) -> bool:
    """Return whether the arrays of an .npz file are those of scipy.sparse.save_npz."""
    return {"format", "shape", "data"} <= names


def read_sparse(path: Path) -> NDArray[Any]:
    """Return a sparse matrix that scipy wrote as a dense array.

    Raises:
        DataError: it would take more than 4 GiB.
    """
    from scipy.sparse import load_npz

    matrix = load_npz(path)
    if (size := int(np.prod(matrix.shape)) * matrix.dtype.itemsize) > MOST_DENSE:
        raise DataError(
            expected=f"a sparse matrix of at most {MOST_DENSE >> 30} GiB as a dense array in {path}",
            got=f"{' x '.join(map(str, matrix.shape))} of {matrix.dtype}, {size / 2**30:.1f} GiB",
            do="Choose fewer columns, such as the most variable ones, and save them with numpy.save.",
        )
    return np.asarray(matrix.toarray())
