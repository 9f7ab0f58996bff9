"""Networks whose gradients are hard to get right."""

import torch
import torch.nn.functional as F
from torch import nn


class Squares(nn.Module):
    """The loss of a network of layers: half the squared output of each example."""

    def __init__(self, *layers):
        super().__init__()
        self.net = nn.Sequential(*layers)

    def forward(self, x, draws=1):
        return 0.5 * self.net(x).flatten(1).square().sum(1)


def mlp():
    return Squares(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4, bias=False), nn.ReLU(inplace=True), nn.Linear(4, 3))


def tokens(d_model=6):
    """Layers see (batch, positions, features)."""
    return Squares(nn.Linear(3, d_model), nn.LayerNorm(d_model), nn.GELU(), nn.Linear(d_model, 2))


def conv_net():
    return Squares(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, (3, 2), padding=(2, 1), dilation=(2, 1), groups=2),
        nn.Tanh(),
        nn.Conv2d(6, 6, 3, padding="same", padding_mode="reflect", groups=6, bias=False),
        nn.BatchNorm2d(6),
        nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        nn.Tanh(),
        nn.ConvTranspose2d(4, 3, (2, 3), stride=(3, 1), padding=(1, 0), dilation=(1, 2), output_padding=(2, 1)),
    ).eval()


def conv_1d():
    return Squares(
        nn.Conv1d(2, 6, 4, stride=3, padding="valid"),
        nn.ELU(),
        nn.ConvTranspose1d(6, 4, 5, stride=2, padding=2, dilation=2, output_padding=1, groups=2),
        nn.BatchNorm1d(4),
        nn.Conv1d(4, 4, 4, padding="same", dilation=3),
    ).eval()


def conv_3d():
    return Squares(nn.Conv3d(1, 2, 2, stride=(1, 2, 1)), nn.Tanh(), nn.ConvTranspose3d(2, 1, 2, stride=2))


class Words(nn.Module):
    """An embedding whose rows are also the output weights, tied, and a padding row."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 4, padding_idx=0)
        self.mix = nn.Linear(4, 4)
        self.out = nn.Linear(4, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x, draws=1):
        logits = self.out(torch.tanh(self.mix(self.embed(x))))
        return F.cross_entropy(logits.flatten(0, 1), x.flatten(), reduction="none").view(x.shape).sum(1)


class Bare(nn.Module):
    """Bare parameters, a tied layer, a layer called twice, a layer never called and one used behind hooks' back."""

    def __init__(self):
        super().__init__()
        self.first, self.twice, self.sly = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.twice.weight
        self.scale, self.unused = nn.Parameter(torch.randn(4)), nn.Linear(2, 2)
        self.norm = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x, draws=1):
        h = torch.tanh(self.twice(torch.tanh(self.twice(torch.tanh(self.first(x))))))
        h = self.tied(h) * self.scale + F.linear(h, 0.01 * self.sly.weight.T)
        h = h + torch.tanh(self.sly(h))
        h = h + self.attention(h[:, None], h[:, None], h[:, None])[0][:, 0]
        return self.norm(h).square().sum(1)


NETWORKS = {
    "mlp": (mlp, (5,)),
    "tokens": (tokens, (4, 3)),
    "conv": (conv_net, (2, 9, 8)),
    "conv 1-d": (conv_1d, (2, 31)),
    "conv 3-d": (conv_3d, (1, 4, 5, 4)),
    "bare": (Bare, (5,)),
}


class ConvVAE(nn.Module):
    """The draws of an example are flattened with the examples, draw by draw or example by example."""

    noise_shape = (4,)

    def __init__(self, per):
        super().__init__()
        self.per = per
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 8)
        )
        self.expand = nn.Linear(4, 48)
        self.decoder = nn.Sequential(
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1),
            nn.Tanh(),
            nn.Conv2d(4, 1, 1),
        )

    def forward(self, x, draws=1, noise=None):
        mean, log_variance = self.encoder(x).chunk(2, -1)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        z = mean + (0.5 * log_variance).exp() * noise
        z = z if self.per == "call" else z.transpose(0, 1)
        error = self.decoder(self.expand(z.flatten(0, 1)).view(-1, 3, 4, 4)).view(*z.shape[:2], 1, 8, 8)
        x = x if self.per == "call" else x[:, None]
        return kl + (error - x).square().sum((2, 3, 4)).mean(0 if self.per == "call" else 1)


class OwnNoise(nn.Module):
    """Draws its own noise from torch's stream."""

    def __init__(self):
        super().__init__()
        self.layer, self.bare = nn.Linear(4, 4), nn.Parameter(torch.randn(4))

    def forward(self, x, draws=1):
        return (self.layer(x + torch.randn(draws, *x.shape, dtype=x.dtype)) * self.bare).square().sum(-1).mean(0)
