"""The gradient of each kind of layer, computed from its input and the gradient of its output.

A rule takes both, (n, calls, *shape) with the example first, and returns for each parameter of the layer either
outer products or the gradients themselves; n is one chunk of the examples. Rules exist for exact computations only:
`probe` checks that a layer is used as its class says before any rule is trusted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genmem.gradients.factored import Lookup, Mask, Masked, Outer, Piece, Rows, chunks

FASTER_FOR = 4  # the library's own routine, if there is one, is worth this many times the memory of outer products

Pieces = dict[str, Piece]
Rule = Callable[[nn.Module, Tensor, Tensor], Pieces]


# --- rules


def _linear(layer: nn.Linear, a: Tensor, d: Tensor) -> Pieces:
    mask = Mask.of(layer)
    weight = Outer(d[None], a[None]) if mask is None else Masked(d[None], a[None], mask)
    return {"weight": weight, "bias": Rows(d.sum(1))}


def _embedding(layer: nn.Embedding, a: Tensor, d: Tensor) -> Pieces:
    index = a if layer.padding_idx is None else torch.where(a == layer.padding_idx, -1, a)
    return {"weight": Lookup(index[None], d[None], layer.num_embeddings)}


def _layer_norm(layer: nn.LayerNorm, a: Tensor, d: Tensor) -> Pieces:
    return _affine(F.layer_norm(a, layer.normalized_shape, eps=layer.eps) * d, d, (1,))


def _rms_norm(layer: nn.RMSNorm, a: Tensor, d: Tensor) -> Pieces:
    shape = list(layer.normalized_shape)
    return {"weight": Rows((F.rms_norm(a, shape, eps=layer.eps) * d).sum(1).flatten(1))}


def _group_norm(layer: nn.GroupNorm, a: Tensor, d: Tensor) -> Pieces:
    normal = F.group_norm(a.flatten(0, 1), layer.num_groups, eps=layer.eps).view_as(a)
    return _affine(normal * d, d, (1, *range(3, d.ndim)))


def _batch_norm(layer: nn.BatchNorm2d, a: Tensor, d: Tensor) -> Pieces:
    normal = F.batch_norm(a.flatten(0, 1), layer.running_mean, layer.running_var, eps=layer.eps).view_as(a)
    return _affine(normal * d, d, (1, *range(3, d.ndim)))


def _affine(weight: Tensor, bias: Tensor, over: tuple[int, ...]) -> Pieces:
    return {"weight": Rows(weight.sum(over).flatten(1)), "bias": Rows(bias.sum(over).flatten(1))}


def _conv(layer: nn.Conv2d, a: Tensor, d: Tensor) -> Pieces:
    left = _grouped(d.flatten(3), layer.groups)  # (groups, n, calls * positions, channels out)
    right = _grouped(_patches(_padded(layer, a), layer, d.shape[3:]), layer.groups)
    return {"weight": Outer(left, right), "bias": Rows(d.flatten(3).sum((1, 3)))}


def _conv_transpose(layer: nn.ConvTranspose2d, a: Tensor, d: Tensor) -> Pieces:
    # Each input position writes a patch of the output: its term is (input there, gradient of this patch).
    padding = [side for pad in reversed(_padding(layer)) for side in (pad, pad)]
    right = _grouped(_patches(F.pad(d, padding), layer, a.shape[3:]), layer.groups)
    return {"weight": Outer(_grouped(a.flatten(3), layer.groups), right), "bias": Rows(d.flatten(3).sum((1, 3)))}


def _conv_rows(layer: nn.Module, a: Tensor, d: Tensor) -> Pieces:
    """Return the gradients of a convolution written out, by the library's own routine for one example at a time.

    On a CPU it is faster than products of patches, which take many times the memory of the input.
    """
    assert isinstance(
        layer, nn.Conv2d | nn.ConvTranspose2d | nn.Conv1d | nn.ConvTranspose1d | nn.Conv3d | nn.ConvTranspose3d
    )
    around = [0] * len(layer.kernel_size)
    if layer.transposed:
        padding, rim = list(_padding(layer)), list(layer.output_padding)  # type: ignore[arg-type]
    else:
        a, padding, rim = _padded(layer, a), around, around  # type: ignore[arg-type]
    settings = (list(layer.stride), padding, list(layer.dilation), layer.transposed, rim, layer.groups)
    wanted = (False, True, False)
    rows = d.new_empty(len(d), layer.weight.numel())
    for row, seen, back in zip(rows, a, d, strict=True):
        row.copy_(torch.ops.aten.convolution_backward(back, seen, layer.weight, None, *settings, wanted)[1].flatten())
    return {"weight": Rows(rows), "bias": Rows(d.flatten(3).sum((1, 3)))}


def _grouped(values: Tensor, groups: int) -> Tensor:
    """Return (n, calls, channels, positions) as (groups, n, calls * positions, channels / groups)."""
    n, calls, channels, positions = values.shape
    split = values.reshape(
        n, calls, groups, channels // groups, positions
    )  # (n, calls, groups, channels / groups, positions)
    return split.permute(2, 0, 1, 4, 3).flatten(2, 3)


def _patches(values: Tensor, layer: nn.Conv2d | nn.ConvTranspose2d, positions: Sequence[int]) -> Tensor:
    """Return the input window of each position: (n, calls, channels * kernel, positions).

    A window that no position uses is dropped: strides may not divide the size, and output padding adds a rim.
    """
    axes = range(len(positions))
    for axis, size in zip(axes, positions, strict=True):
        kernel, dilation = layer.kernel_size[axis], layer.dilation[axis]
        values = values.unfold(3 + axis, dilation * (kernel - 1) + 1, layer.stride[axis])[..., ::dilation]
        values = values.narrow(3 + axis, 0, size)
    kernels = [3 + len(positions) + axis for axis in axes]
    return values.permute(0, 1, 2, *kernels, *(3 + axis for axis in axes)).flatten(2, 2 + len(kernels)).flatten(3)


def _padded(layer: nn.Conv2d, a: Tensor) -> Tensor:
    if isinstance(layer.padding, str):
        total = [
            d * (k - 1) * (layer.padding == "same") for d, k in zip(layer.dilation, layer.kernel_size, strict=True)
        ]
        sides = [side for both in reversed(total) for side in (both // 2, both - both // 2)]
    else:
        sides = [side for pad in reversed(layer.padding) for side in (pad, pad)]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded: Tensor = F.pad(a.flatten(0, 1), sides, mode=mode)
    return padded.view(*a.shape[:2], *padded.shape[1:])


def _padding(layer: nn.ConvTranspose2d) -> tuple[int, ...]:
    return tuple(int(pad) for pad in layer.padding)


@dataclass(frozen=True)
class Kind:
    """How a kind of layer is read: `trailing` dimensions of its output are one call for one example."""

    rule: Rule
    trailing: Callable[[nn.Module], int | None]
    rows: Rule | None = None  # the same written out, if there is a faster way on a CPU
    gives: tuple[str, ...] = ("weight", "bias")  # a layer may have other parameters: pruned ones, or a user's own


def _last(_: nn.Module) -> int:
    return 1


def _normalised(layer: nn.Module) -> int:
    return len(layer.normalized_shape)  # type: ignore[arg-type]


def _image(layer: nn.Module) -> int:
    return 1 + len(layer.kernel_size)  # type: ignore[arg-type]


def _all_but_one(_: nn.Module) -> None:
    return None


KINDS: dict[type[nn.Module], Kind] = {
    nn.Linear: Kind(_linear, _last),  # type: ignore[arg-type]
    nn.Embedding: Kind(_embedding, _last, gives=("weight",)),  # type: ignore[arg-type]
    nn.LayerNorm: Kind(_layer_norm, _normalised),  # type: ignore[arg-type]
    nn.RMSNorm: Kind(_rms_norm, _normalised, gives=("weight",)),  # type: ignore[arg-type]
    nn.GroupNorm: Kind(_group_norm, _all_but_one),  # type: ignore[arg-type]
    nn.modules.batchnorm._BatchNorm: Kind(_batch_norm, _all_but_one),  # type: ignore[arg-type]
    **{kind: Kind(_conv, _image, _conv_rows) for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)},  # type: ignore[arg-type]
    **{
        kind: Kind(_conv_transpose, _image, _conv_rows)  # type: ignore[arg-type]
        for kind in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    },
}


def kind_of(layer: nn.Module) -> Kind | None:
    """Return the kind of a layer; None if no rule is known."""
    return next((kind for known, kind in KINDS.items() if isinstance(layer, known)), None)


def readable(layer: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a layer that a rule may give gradients for, by their own names."""
    kind, own = kind_of(layer), layer._parameters
    return {name: p for name in (() if kind is None else kind.gives) if (p := own.get(name)) is not None}


# --- from calls of a layer to pieces


def pieces_of(layer: nn.Module, calls: Sequence[tuple[Tensor, Tensor]], wanted: Sequence[str]) -> Pieces:
    """Return the gradients of the `wanted` parameters, over all calls of a layer.

    Args:
        layer: of a known kind.
        calls: (input, gradient of the output) of each, (n, calls, *shape).
        wanted: names of its own parameters.
    """
    kind = kind_of(layer)
    assert kind is not None
    found = [_one_call(kind, layer, a, d, wanted, len(calls)) for a, d in calls]
    return {name: joined([pieces[name] for pieces in found]) for name in wanted}


def joined(pieces: Sequence[Piece]) -> Piece:
    """Return the sum of gradients of one parameter: more terms if that is smaller than writing them out."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    alike = {(type(piece), piece.right.shape[3], piece.left.shape[3:]) for piece in pieces if isinstance(piece, Outer)}
    if all(isinstance(piece, Outer) for piece in pieces) and len(alike) == 1:
        if sum(piece.kept for piece in pieces) < first.size:
            left = torch.cat([piece.left for piece in pieces], 2)  # type: ignore[union-attr]
            right = torch.cat([piece.right for piece in pieces], 2)  # type: ignore[union-attr]
            assert isinstance(first, Outer)
            return replace(first, left=left, right=right)
    total = written_out(first).values
    for piece in pieces[1:]:
        total += written_out(piece).values
    return Rows(total)


def _one_call(kind: Kind, layer: nn.Module, a: Tensor, d: Tensor, wanted: Sequence[str], calls: int) -> Pieces:
    """Return the pieces of one of so many calls; gradients are written out, a few at a time, if they are smaller so."""
    rule, rows = kind.rule, kind.rows if d.device.type == "cpu" else None
    sample = rule(layer, a[:1], d[:1])
    outer = [piece for name, piece in sample.items() if name in wanted and isinstance(piece, Outer)]
    times = calls * (1 if rows is None else FASTER_FOR)
    if all(times * piece.kept < piece.size for piece in outer):
        return rule(layer, a, d)
    if rows is not None:
        return rows(layer, a, d)
    out = {name: d.new_empty(len(d), sample[name].size) for name in wanted}
    for some in chunks(len(d), max(piece.kept for piece in outer), 4):
        for name, piece in rule(layer, a[some], d[some]).items():
            if name in out:
                out[name][some] = piece.dense(0, len(piece))
    return {name: Rows(values) for name, values in out.items()}


def written_out(piece: Piece) -> Rows:
    """Return a piece as plain gradients."""
    return piece if isinstance(piece, Rows) else Rows(piece.dense(0, len(piece)))
