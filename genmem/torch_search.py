"""Nearest neighbours on CUDA where torch sees it and the installed FAISS does not: candidates for `genmem.search`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_PAIRS = 2**28  # distances held at a time: 1 GB
_WORTH = 10**11  # multiplications that take longer than importing torch does

Candidates = tuple[NDArray[np.float32], NDArray[np.int64]]


def cuda_knn(queries: NDArray[np.float32], block: NDArray[np.float32], count: int) -> Candidates | None:
    """Return what `knn` gives on CUDA, or None where there is none or the search is too small to load torch for."""
    small = len(queries) * block.size < _WORTH
    if small and "torch" not in sys.modules:
        return None
    import torch

    return knn(queries, block, count, torch.device("cuda")) if torch.cuda.is_available() else None


def knn(queries: NDArray[np.float32], block: NDArray[np.float32], count: int, device: "torch.device") -> Candidates:
    """Return squared distances and indices, (m, count) each, of the rows of `block` nearest to each query, ascending.

    In float32, as |b|^2 - 2 q.b + |q|^2 with rounding as bounded in `genmem.search`, which decides in float64. Equal
    distances come in any order.
    """
    import torch

    base = _tensor(block, device)
    norms = base.square().sum(1)
    step = max(1, _PAIRS // len(block))
    squared, found = np.empty((len(queries), count), np.float32), np.empty((len(queries), count), np.int64)
    with torch.no_grad(), _full_float32():
        for start in range(0, len(queries), step):
            part = _tensor(queries[start : start + step], device)
            distances = torch.addmm(norms, part, base.T, alpha=-2)
            least, at = distances.topk(count, dim=1, largest=False)
            squared[start : start + step] = (least + part.square().sum(1, keepdim=True)).cpu().numpy()
            found[start : start + step] = at.cpu().numpy()
    return squared, found


def _tensor(values: NDArray[np.float32], device: "torch.device") -> "torch.Tensor":
    import torch

    # torch warns of arrays that must not be written to, such as mapped files.
    return torch.from_numpy(values if values.flags.writeable else values.copy()).to(device)


@contextmanager
def _full_float32() -> Iterator[None]:
    """Keep TensorFloat-32 out: its 10 bits would break the bound on rounding."""
    import torch

    # Not torch.get_float32_matmul_precision: it raises where somebody has set this.
    settings = torch.backends.cuda.matmul
    usual = settings.fp32_precision
    settings.fp32_precision = "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = usual
