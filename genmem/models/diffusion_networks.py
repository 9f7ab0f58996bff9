"""The networks that predict noise: genmem's for vectors, diffusers' UNet2DModel for images, or the user's own."""

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genmem.errors import ModelError

EMBEDDING = 64
LONGEST_PERIOD = 10_000
FREQUENCIES = (1, 2, 4)  # radians per unit of scaled x


class MLPDenoiser(nn.Module):
    """A residual network for vectors: x_t (n, d) and the timestep t (n,) -> (n, d), 0 before training.

    It sees x_t with its sines and cosines: from x_t alone it is slow to learn features narrower than the data.

    References:
        Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains (Tancik et al., 2020),
        https://arxiv.org/abs/2006.10739; Variational Diffusion Models (Kingma et al., 2021),
        https://arxiv.org/abs/2107.00630 (in a diffusion model).
    """

    def __init__(self, size: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(EMBEDDING, width), nn.SiLU(), nn.Linear(width, width))
        self.first = nn.Linear((1 + 2 * len(FREQUENCIES)) * size, width)
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.last = nn.Linear(width, size)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the prediction for x at timesteps t: (n, d)."""
        time = self.time(embed(t, x.dtype))
        h = self.first(waves(x))
        for layer in self.layers:
            h = h + layer(F.silu(h + time))
        prediction: Tensor = self.last(F.silu(h))
        return prediction


def waves(x: Tensor) -> Tensor:
    """Return x (n, d) with its sines and cosines: (n, (1 + 2 * len(FREQUENCIES)) * d)."""
    angles = torch.cat([rate * x for rate in FREQUENCIES], -1)
    return torch.cat([x, angles.sin(), angles.cos()], -1)


def embed(t: Tensor, dtype: torch.dtype) -> Tensor:
    """Return sines and cosines of the timestep at geometrically spaced periods: (n, EMBEDDING)."""
    half = EMBEDDING // 2
    rates = torch.exp(-math.log(LONGEST_PERIOD) / half * torch.arange(half, device=t.device, dtype=dtype))
    angles = t.to(dtype)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


class PaddedUNet(nn.Module):
    """diffusers' UNet2DModel, with images (n, c, h, w) padded with zeros to sizes that halve without remainder."""

    def __init__(
        self, shape: tuple[int, ...], *, block_out_channels: Sequence[int], layers_per_block: int, attention: bool
    ) -> None:
        super().__init__()
        levels = len(block_out_channels)
        # Only the coarsest level has attention: elsewhere small images gain nothing from it.
        down = ["DownBlock2D"] * (levels - 1) + ["AttnDownBlock2D" if attention else "DownBlock2D"]
        up = ["AttnUpBlock2D" if attention else "UpBlock2D"] + ["UpBlock2D"] * (levels - 1)
        self.padding = _padding(shape[1:], 2 ** (levels - 1))
        self.unet = import_diffusers("a diffusion model of images").UNet2DModel(
            in_channels=shape[0],
            out_channels=shape[0],
            block_out_channels=tuple(block_out_channels),
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            layers_per_block=layers_per_block,
            norm_num_groups=_groups(block_out_channels),
            add_attention=attention,
        )
        plain = import_diffusers("attention").models.attention_processor.AttnProcessor
        for layer in self.unet.modules():
            if hasattr(layer, "set_processor"):
                layer.set_processor(plain())  # torch's fused attention has no rule for lanes

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the prediction for images x at timesteps t: (n, c, h, w)."""
        left, _, top, _ = self.padding
        output: Tensor = self.unet(F.pad(x, self.padding), t).sample
        return output[..., top : top + x.shape[-2], left : left + x.shape[-1]]


def _groups(channels: Sequence[int]) -> int:
    """Return how many groups of at least 4 channels are normalized: a single channel would lose the timestep."""
    return math.gcd(8, *(c // 4 for c in channels)) if all(c % 4 == 0 for c in channels) else 1


def _padding(size: tuple[int, ...], multiple: int) -> tuple[int, int, int, int]:
    """Return (left, right, top, bottom) that make (height, width) multiples."""
    (top, bottom), (left, right) = ((-s % multiple // 2, -s % multiple - -s % multiple // 2) for s in size)
    return left, right, top, bottom


def own_network(make: Callable[[tuple[int, ...]], Any], shape: tuple[int, ...]) -> nn.Module:
    """Return the network that a user's callable creates.

    Raises:
        ModelError: it does not return a network.
    """
    try:
        network = make(shape)
    except Exception as error:  # whatever the user's callable raises
        raise _unusable(f"{type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise _unusable(type(network).__name__)
    return network


@torch.no_grad()
def check_answer(network: nn.Module, shape: tuple[int, ...]) -> None:
    """Call a network with two examples of zeros.

    Raises:
        ModelError: the shape of its output is not that of its input.
    """
    try:
        answer = answer_of(network.eval()(torch.zeros(2, *shape), torch.tensor([0, 1])))
        got = tuple(answer.shape)
    except Exception as error:  # whatever the user's network raises
        raise _unusable(f"{type(error).__name__}: {error}", _conditional(error)) from error
    if got != (2, *shape):
        raise _unusable(f"an output of shape {got} for x of shape {(2, *shape)}")


def answer_of(output: Any) -> Tensor:
    """Return the prediction of a network: a tensor, or the `.sample` of diffusers' outputs."""
    answer: Tensor = output if isinstance(output, Tensor) else output.sample
    return answer


def _conditional(error: Exception) -> str:
    """Return what to do if a network seems to lack a label or another condition."""
    said = str(error).lower()
    if not any(word in said for word in ("class_labels", "label", "encoder_hidden_states", "required positional")):
        return ""
    return (
        "A density has no labels or prompts: use an unconditional network, or a module that calls yours with a fixed "
        "condition. "
    )


def _unusable(got: str, first: str = "") -> ModelError:
    return ModelError(
        expected="network(shape) to return an nn.Module, called as net(x, t) with x (n, *shape) and t (n,), that "
        "returns a tensor of the shape of x, or an object with such a `.sample`",
        got=got,
        do=f"{first}Correct the network; images come channels first.",
    )


def import_diffusers(purpose: str) -> Any:
    """Return the library diffusers.

    Raises:
        ModelError: it is not installed.
    """
    try:
        return importlib.import_module("diffusers")
    except ImportError as error:
        raise ModelError(
            expected=f"diffusers, for {purpose}",
            got=str(error),
            do="Install it with: pip install 'genmem[diffusion]'.",
        ) from error
