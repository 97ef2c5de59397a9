"""Hand-written networks that read or draw pictures."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from networks_zoo.plain import PLAIN, plain, sequential


@sequential("gan-generator", 2, 32, 1, 1)
def _generator() -> list[nn.Module]:
    return [
        *(nn.ConvTranspose2d(32, 64, 4, bias=False), nn.BatchNorm2d(64), nn.ReLU(True)),
        *(nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(True)),
        *(nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True)),
        *(nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh()),
    ]


@sequential("gan-discriminator", 2, 3, 32, 32)
def _discriminator() -> list[nn.Module]:
    return [
        *(nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2, True)),
        *(nn.Conv2d(16, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.LeakyReLU(0.2, True)),
        *(nn.Conv2d(32, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.LeakyReLU(0.2, True)),
        *(nn.Conv2d(64, 1, 4), nn.Flatten()),
    ]


@sequential("gan-discriminator-spectral-norm", 2, 3, 32, 32)
def _spectral() -> list[nn.Module]:
    normed = parametrizations.spectral_norm
    return [
        *(normed(nn.Conv2d(3, 16, 4, 2, 1)), nn.LeakyReLU(0.1)),
        *(normed(nn.Conv2d(16, 32, 4, 2, 1)), nn.LeakyReLU(0.1)),
        *(nn.Flatten(), normed(nn.Linear(2048, 1))),
    ]


@sequential("srcnn", 2, 1, 24, 24)
def _srcnn() -> list[nn.Module]:
    return [
        *(nn.Conv2d(1, 32, 9, padding=4), nn.ReLU(), nn.Conv2d(32, 16, 1), nn.ReLU()),
        nn.Conv2d(16, 1, 5, padding=2),
    ]


@sequential("espcn", 2, 1, 16, 16)
def _espcn() -> list[nn.Module]:
    return [
        *(nn.Conv2d(1, 32, 5, padding=2), nn.Tanh(), nn.Conv2d(32, 24, 3, padding=1), nn.Tanh()),
        *(nn.Conv2d(24, 4, 3, padding=1), nn.PixelShuffle(2)),
    ]


@sequential("dncnn", 2, 1, 20, 20)
def _dncnn() -> list[nn.Module]:
    body: list[nn.Module] = []
    for _ in range(3):
        body += [nn.Conv2d(24, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()]
    return [nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), *body, nn.Conv2d(24, 1, 3, padding=1)]


def _double(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(True)),
        *(nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(True)),
    )


@plain(2, 3, 16, 16, name="unet-transposed", transposed=True)
@plain(2, 3, 16, 16, name="unet-bilinear", transposed=False)
class UNet(nn.Module):
    """Two levels down and up, joined by `cat`."""

    def __init__(self, transposed: bool):
        super().__init__()
        self.down1, self.down2, self.middle = _double(3, 12), _double(12, 24), _double(24, 32)
        if transposed:
            self.up2: nn.Module = nn.ConvTranspose2d(32, 24, 2, 2)
            self.up1: nn.Module = nn.ConvTranspose2d(24, 12, 2, 2)
            self.join2, self.join1 = _double(48, 24), _double(24, 12)
        else:
            self.up2 = self.up1 = nn.Upsample(scale_factor=2, mode="bilinear")
            self.join2, self.join1 = _double(56, 24), _double(36, 12)
        self.head = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 3, height, width) to (samples, 4, height, width)."""
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        y = self.middle(F.max_pool2d(b, 2))
        y = self.join2(torch.cat([b, self.up2(y)], 1))
        return self.head(self.join1(torch.cat([a, self.up1(y)], 1)))


@plain(2, 3, 12, 12, name="edsr")
class EDSR(nn.Module):
    """Residual blocks without norms, scaled by a constant; upsampled by a pixel shuffle."""

    def __init__(self, width: int = 24):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.ReLU(True),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for _ in range(2)
        )
        self.after = nn.Conv2d(width, width, 3, padding=1)
        self.up = nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2))
        self.head = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 3, height, width) to twice the height and width."""
        x = self.stem(x)
        y = x
        for block in self.blocks:
            y = y + 0.1 * block(y)
        return self.head(self.up(x + self.after(y)))


@plain(2, 3, 12, 12, name="rcan")
class RCAN(nn.Module):
    """Channel attention in residual blocks."""

    def __init__(self, width: int = 24):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.squeeze = nn.Sequential(
            *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 6, 1), nn.ReLU()),
            *(nn.Conv2d(6, width, 1), nn.Sigmoid()),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 3, height, width) to the same shape."""
        x = self.stem(x)
        y = self.body(x)
        return self.head(x + y * self.squeeze(y))


@plain(2, 1, 16, 16, name="vae")
class VAE(nn.Module):
    """A variational autoencoder; in evaluation the mean is the code."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU()),
            nn.Flatten(),
        )
        self.mean, self.spread = nn.Linear(384, 8), nn.Linear(384, 8)
        self.start = nn.Linear(8, 384)
        self.decoder = nn.Sequential(
            *(nn.ConvTranspose2d(24, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1)),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (samples, 1, 16, 16) to (picture, mean, log variance)."""
        hidden = self.encoder(x)
        mean, spread = self.mean(hidden), self.spread(hidden)
        code = mean
        if self.training:
            code = mean + torch.randn_like(mean) * (spread / 2).exp()
        return self.decoder(self.start(code).view(-1, 24, 4, 4)), mean, spread


@plain(2, 1, 16, 16, name="vq-vae")
class VQVAE(nn.Module):
    """An autoencoder whose codes are the nearest rows of a table."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, width, 4, 2, 1)
        )
        self.codes = nn.Embedding(32, width)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(width, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 1, 16, 16) to the same shape."""
        y = self.encoder(x).permute(0, 2, 3, 1)
        nearest = torch.cdist(y.flatten(0, 2), self.codes.weight).argmin(1).view(y.shape[:-1])
        code = y + (self.codes(nearest) - y).detach()
        return self.decoder(code.permute(0, 3, 1, 2))


class Denoiser(nn.Module):
    """A diffusion model's U-Net: group norm, a time embedding added to each block, attention."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, 32), nn.SiLU(), nn.Linear(32, 32))
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(4, width), nn.GroupNorm(4, 2 * width)
        self.conv1 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.shift = nn.Linear(32, 2 * width)
        self.qkv, self.out = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map (samples, 1, height, width) and (samples,) times to the noise."""
        waves = torch.exp(torch.arange(self.width // 2) * (-math.log(1e4) * 2 / self.width))
        angles = time[:, None] * waves.to(time)
        code = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        x = self.stem(x)
        y = self.conv1(F.silu(self.norm1(x))) + self.shift(F.silu(code))[:, :, None, None]
        x = x + self.conv2(F.silu(self.norm2(y)))
        q, k, v = self.qkv(x).flatten(2).transpose(1, 2).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).view_as(x)
        return self.head(x + self.out(mixed))


PLAIN["diffusion-unet"] = lambda: (Denoiser(), (torch.randn(2, 1, 8, 8), torch.rand(2)))


@plain(2, 3, 16, 16, name="style-transfer")
class StyleTransfer(nn.Module):
    """Convolutions with instance norm and reflection padding, residual blocks, upsampling."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(
            *(nn.ReflectionPad2d(2), nn.Conv2d(3, 16, 5), nn.InstanceNorm2d(16, affine=True)),
            *(nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.InstanceNorm2d(24, affine=True), nn.ReLU()),
        )
        self.block = nn.Sequential(
            *(nn.ReflectionPad2d(1), nn.Conv2d(24, 24, 3), nn.InstanceNorm2d(24, affine=True)),
            *(nn.ReLU(), nn.ReflectionPad2d(1), nn.Conv2d(24, 24, 3)),
        )
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2), nn.Conv2d(24, 16, 3, padding=1), nn.InstanceNorm2d(16)
        )
        self.head = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 3, height, width) to the same shape."""
        y = self.down(x)
        return self.head(self.up(y + self.block(y)).relu())


@plain(2, 16, 9, 9, name="siamese-tracker")
class Correlated(nn.Module):
    """One tower on two halves of the input, correlated by a grouped convolution."""

    def __init__(self):
        super().__init__()
        self.tower = nn.Sequential(nn.Conv2d(8, 24, 3), nn.ReLU(), nn.Conv2d(24, 20, 3))
        self.head = nn.Conv2d(1, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 16, 9, 9) to (samples, 4, 3, 3)."""
        kernel, scene = self.tower(x[:, :8, 2:7, 2:7]), self.tower(x[:, 8:])
        return self.head((scene * kernel).sum(1, keepdim=True))


@plain(2, 3, 16, 16, name="squeeze-excite-resnext")
class Grouped(nn.Module):
    """Grouped convolutions, squeeze and excitation, a residual."""

    def __init__(self, width: int = 24):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.conv1, self.norm1 = nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=4)
        self.conv3 = nn.Conv2d(width, width, 1)
        self.squeeze, self.excite = nn.Linear(width, 6), nn.Linear(6, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, 3, height, width) to (samples, 4)."""
        x = self.stem(x)
        y = self.conv3(F.relu(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        scale = self.excite(F.relu(self.squeeze(y.mean((2, 3))))).sigmoid()
        return self.head(F.relu(x + y * scale[..., None, None]).mean((2, 3)))


@plain(1, 3, 12, 12, name="batch-of-one")
class OneSample(Grouped):
    """The same with an example of a single sample."""
