"""Convolutional networks, decoders and generators as people write them by hand."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from . import Net, images, register, vectors, weight

BUILDERS = {}
idiom = register(BUILDERS)


def between(function, channels=16, size=8, other_size=10, **parts):
    "A network with a function of features between two convolutions."

    def forward(m, x):
        return m.o(function(m, m.i(x).relu()).mean((2, 3)))

    parts = {"i": nn.Conv2d(3, channels, 3), "o": nn.Linear(channels, 5)} | parts
    return Net(forward, **parts), *images(size, other_size=other_size)


@idiom
def squeeze_excite_linear():
    def mix(m, x):
        gate = m.b(m.a(x.mean((2, 3))).relu()).sigmoid()
        return x * gate[:, :, None, None]

    return between(mix, a=nn.Linear(16, 4), b=nn.Linear(4, 16))


@idiom
def squeeze_excite_view():
    def mix(m, x):
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        return x * m.fc(y).view(b, c, 1, 1).expand_as(x)

    return between(
        mix, fc=nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 16), nn.Sigmoid())
    )


@idiom
def efficient_channel_attention():
    def mix(m, x):
        y = m.c(x.mean((2, 3)).unsqueeze(1)).sigmoid()
        return x * y.transpose(1, 2).unsqueeze(-1)

    return between(mix, c=nn.Conv1d(1, 1, 3, padding=1, bias=False))


@idiom
def cbam():
    def mix(m, x):
        x = x * (m.mlp(x.mean((2, 3))) + m.mlp(x.amax((2, 3)))).sigmoid()[:, :, None, None]
        both = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return x * m.c(both).sigmoid()

    return between(
        mix,
        mlp=nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 16)),
        c=nn.Conv2d(2, 1, 7, padding=3),
    )


@idiom
def non_local():
    def mix(m, x):
        q, k, v = m.q(x).flatten(2), m.k(x).flatten(2), m.v(x).flatten(2)
        y = (v @ (q.transpose(1, 2) @ k).softmax(-1).transpose(1, 2)).view(len(x), 8, *x.shape[2:])
        return x + m.p(y)

    return between(
        mix,
        q=nn.Conv2d(16, 8, 1),
        k=nn.Conv2d(16, 8, 1),
        v=nn.Conv2d(16, 8, 1),
        p=nn.Conv2d(8, 16, 1),
    )


@idiom
def sagan_attention_gamma():
    def mix(m, x):
        b, c, h, w = x.shape
        q = m.q(x).view(b, -1, h * w).permute(0, 2, 1)
        y = torch.bmm(
            m.v(x).view(b, -1, h * w),
            torch.bmm(q, m.k(x).view(b, -1, h * w)).softmax(-1).permute(0, 2, 1),
        )
        return m.gamma * y.view(b, c, h, w) + x

    return between(
        mix,
        q=nn.Conv2d(16, 4, 1),
        k=nn.Conv2d(16, 4, 1),
        v=nn.Conv2d(16, 16, 1),
        gamma=nn.Parameter(torch.zeros(1)),
    )


@idiom
def acmix():
    def mix(m, x):
        q, k, v = m.q(x), m.k(x), m.v(x)
        scores = (q.flatten(2).transpose(1, 2) @ k.flatten(2)).softmax(-1)
        y = (v.flatten(2) @ scores.transpose(1, 2)).view_as(x)
        return m.a * y + m.b * m.c(m.f(torch.cat([q, k, v], 1)))

    ones = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    return between(
        mix,
        q=nn.Conv2d(16, 16, 1),
        k=nn.Conv2d(16, 16, 1),
        v=nn.Conv2d(16, 16, 1),
        f=nn.Conv2d(48, 24, 1),
        c=nn.Conv2d(24, 16, 3, padding=1),
        a=ones[0],
        b=ones[1],
    )


@idiom
def depthwise_separable():
    norm = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU6())
    return between(
        lambda m, x: m.p(m.n(m.d(x))),
        d=nn.Conv2d(16, 16, 3, groups=16),
        n=norm,
        p=nn.Conv2d(16, 16, 1),
    )


@idiom
def inverted_residual():
    body = nn.Sequential(
        nn.Conv2d(16, 32, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.Hardswish(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.BatchNorm2d(32),
        nn.Hardswish(),
        nn.Conv2d(32, 16, 1),
        nn.BatchNorm2d(16),
    )
    return between(lambda m, x: x + m.body(x), body=body)


@idiom
def grouped_chain():
    body = nn.Sequential(
        nn.Conv2d(16, 16, 3, groups=4, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=4, padding=1),
        nn.ReLU(),
    )
    return between(lambda m, x: m.body(x), body=body)


@idiom
def grouped_residual():
    return between(lambda m, x: x + m.c(x), c=nn.Conv2d(16, 16, 3, groups=4, padding=1))


@idiom
def channel_shuffle():
    def mix(m, x):
        x = m.a(x).relu()
        b, c, h, w = x.shape
        x = x.view(b, 4, c // 4, h, w).transpose(1, 2).reshape(b, c, h, w)
        return m.b(x)

    return between(mix, a=nn.Conv2d(16, 16, 1, groups=4), b=nn.Conv2d(16, 16, 1, groups=4))


@idiom
def group_norm_network():
    return between(lambda m, x: m.n(x), n=nn.GroupNorm(4, 16))


@idiom
def instance_norm_network():
    return between(
        lambda m, x: m.c(m.n(x)), n=nn.InstanceNorm2d(16, affine=True), c=nn.Conv2d(16, 16, 1)
    )


@idiom
def layer_norm_channels_first():
    def mix(m, x):
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return m.w[:, None, None] * x + m.b[:, None, None]

    return between(mix, w=weight(16), b=weight(16))


@idiom
def handwritten_batch_norm():
    class BatchNorm(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.gamma, self.beta = nn.Parameter(torch.ones(1, n, 1, 1)), weight(1, n, 1, 1)
            self.register_buffer("running_mean", torch.zeros(1, n, 1, 1))
            self.register_buffer("running_var", torch.ones(1, n, 1, 1))

        def forward(self, x):
            if self.training:
                return x
            return (
                self.gamma * (x - self.running_mean) / (self.running_var + 1e-5).sqrt() + self.beta
            )

    return between(lambda m, x: m.n(x), n=BatchNorm(16))


@idiom
def frozen_batch_norm():
    from torchvision.ops import FrozenBatchNorm2d

    return between(lambda m, x: m.n(x), n=FrozenBatchNorm2d(16))


@idiom
def weight_standardisation():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            variance, mean = torch.var_mean(
                self.weight, dim=[1, 2, 3], keepdim=True, unbiased=False
            )
            return self._conv_forward(x, (self.weight - mean) / (variance + 1e-6).sqrt(), self.bias)

    return between(
        lambda m, x: m.n(m.c(x)).relu(), c=Standardised(16, 16, 3), n=nn.GroupNorm(4, 16)
    )


@idiom
def weight_standardisation_by_batch_norm():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            own = F.batch_norm(
                self.weight.reshape(1, self.out_channels, -1),
                None,
                None,
                training=True,
                momentum=0.0,
                eps=1e-6,
            ).reshape_as(self.weight)
            return F.conv2d(x, own, self.bias)

    return between(lambda m, x: m.c(x).relu(), c=Standardised(16, 16, 3))


@idiom
def weight_std_and_mean():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            w = w / (w.flatten(1).std(1).view(-1, 1, 1, 1) + 1e-5)
            return F.conv2d(x, w, self.bias)

    return between(lambda m, x: m.c(x).relu(), c=Standardised(16, 16, 3))


@idiom
def spectral_norm_old():
    return between(lambda m, x: m.c(x).relu(), c=spectral_norm(nn.Conv2d(16, 16, 3)))


@idiom
def spectral_norm_new():
    return between(
        lambda m, x: m.c(x).relu(), c=parametrizations.spectral_norm(nn.Conv2d(16, 16, 3))
    )


@idiom
def weight_norm_old():
    return between(lambda m, x: m.c(x).relu(), c=weight_norm(nn.Conv2d(16, 16, 3)))


@idiom
def weight_norm_new():
    return between(lambda m, x: m.c(x).relu(), c=parametrizations.weight_norm(nn.Conv2d(16, 16, 3)))


@idiom
def linear_decoder_to_images():
    def forward(m, z):
        return m.c(m.f(z).relu().view(-1, 8, 4, 4))

    net = nn.Sequential(
        nn.ConvTranspose2d(8, 6, 4, 2, 1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 3, 3, padding=1),
        nn.Tanh(),
    )
    return Net(forward, f=nn.Linear(5, 128), c=net), *vectors(5)


@idiom
def variational_autoencoder():
    def forward(m, x):
        mean, log_variance = m.e(x).chunk(2, -1)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if m.training else mean
        return m.d(z), mean, log_variance

    encoder = nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12 * 16, 20),
        nn.ReLU(),
        nn.Linear(20, 12),
    )
    decoder = nn.Sequential(
        nn.Linear(6, 20),
        nn.ReLU(),
        nn.Linear(20, 12 * 16),
        nn.ReLU(),
        nn.Unflatten(1, (12, 4, 4)),
        nn.ConvTranspose2d(12, 8, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 1, 4, 2, 1),
        nn.Sigmoid(),
    )
    return Net(forward, e=encoder, d=decoder), *images(16, 1)


@idiom
def dcgan_generator():
    net = nn.Sequential(
        nn.ConvTranspose2d(5, 12, 4, 1, 0, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(True),
        nn.ConvTranspose2d(12, 8, 4, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(True),
        nn.ConvTranspose2d(8, 3, 4, 2, 1),
        nn.Tanh(),
    )
    return net, torch.randn(2, 5, 1, 1), torch.randn(3, 5, 1, 1)


@idiom
def dcgan_discriminator():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(8, 12, 4, 2, 1, bias=False),
        nn.BatchNorm2d(12),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(12, 1, 4),
        nn.Flatten(0),
    )
    return net, *images(16)


@idiom
def conditional_gan_embedding():
    def forward(m, z, label):
        h = torch.cat([z, m.classes(label)], 1)
        return m.c(m.f(h).relu().unflatten(1, (8, 4, 4)))

    examples = [(torch.randn(n, 5), torch.randint(0, 7, (n,))) for n in (2, 3)]
    return Net(
        forward,
        classes=nn.Embedding(7, 6),
        f=nn.Linear(11, 128),
        c=nn.ConvTranspose2d(8, 3, 4, 2, 1),
    ), *examples


@idiom
def modulated_convolution():
    class Modulated(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.weight, self.style = weight(1, outputs, inputs, 3, 3), nn.Linear(6, inputs)

        def forward(self, x, z):
            b, c, h, w = x.shape
            own = self.weight * (self.style(z) + 1).view(b, 1, c, 1, 1)
            own = own * (own.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
            out = own.shape[1]
            y = F.conv2d(x.reshape(1, b * c, h, w), own.view(b * out, c, 3, 3), padding=1, groups=b)
            return y.view(b, out, h, w)

    def forward(m, z):
        z = m.mapping(z)
        x = m.start.expand(len(z), -1, -1, -1)
        x = F.leaky_relu(m.a(x, z), 0.2)
        return m.b(F.interpolate(x, scale_factor=2, mode="bilinear"), z)

    return Net(
        forward,
        start=weight(1, 8, 4, 4),
        a=Modulated(8, 12),
        b=Modulated(12, 3),
        mapping=nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 6)),
    ), *vectors(5)


@idiom
def adaptive_instance_norm():
    def forward(m, x, z):
        h = m.a(x).relu()
        scale, shift = m.style(z)[:, :, None, None].chunk(2, 1)
        h = F.instance_norm(h) * (1 + scale) + shift
        return m.b(h)

    examples = [(x, torch.randn(len(x), 5)) for x in images(8)]
    return Net(
        forward, a=nn.Conv2d(3, 12, 3), style=nn.Linear(5, 24), b=nn.Conv2d(12, 3, 1)
    ), *examples


@idiom
def film_conditioning():
    def forward(m, x, z):
        gamma, beta = m.g(z), m.b(z)
        h = m.n(m.a(x)) * gamma[..., None, None] + beta[..., None, None]
        return m.o(h.relu().flatten(2).mean(-1))

    examples = [(x, torch.randn(len(x), 5)) for x in images(8)]
    return Net(
        forward,
        a=nn.Conv2d(3, 12, 3),
        g=nn.Linear(5, 12),
        b=nn.Linear(5, 12),
        n=nn.BatchNorm2d(12, affine=False),
        o=nn.Linear(12, 3),
    ), *examples


@idiom
def u_net():
    def block(i, o):
        return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())

    def forward(m, x):
        a = m.a(x)
        b = m.b(F.max_pool2d(a, 2))
        c = m.c(F.max_pool2d(b, 2))
        b = m.d(torch.cat([m.up(c), b], 1))
        b = F.interpolate(b, size=a.shape[2:], mode="bilinear", align_corners=True)
        return m.o(m.e(torch.cat([b, a], 1)))

    return Net(
        forward,
        a=block(3, 6),
        b=block(6, 8),
        c=block(8, 12),
        up=nn.ConvTranspose2d(12, 8, 2, 2),
        d=block(16, 8),
        e=block(14, 6),
        o=nn.Conv2d(6, 2, 1),
    ), *images(16, other_size=24)


@idiom
def u_net_padded_skip():
    def forward(m, x):
        a = m.a(x).relu()
        b = m.up(m.b(F.avg_pool2d(a, 2)).relu())
        dy, dx = a.shape[2] - b.shape[2], a.shape[3] - b.shape[3]
        b = F.pad(b, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return m.o(torch.cat([a, b], 1))

    return Net(
        forward,
        a=nn.Conv2d(3, 6, 3, padding=1),
        b=nn.Conv2d(6, 8, 3, padding=1),
        up=nn.ConvTranspose2d(8, 7, 2, 2),
        o=nn.Conv2d(13, 2, 1),
    ), *images(13, other_size=15)


@idiom
def cropped_skip():
    def forward(m, x):
        a = m.a(x).relu()
        b = m.b(a).relu()
        return m.o(torch.cat([F.pad(a, (-1, -1, -1, -1)), b], 1))

    return Net(forward, a=nn.Conv2d(3, 6, 3), b=nn.Conv2d(6, 8, 3), o=nn.Conv2d(14, 2, 1)), *images(
        10
    )


@idiom
def super_resolution_pixel_shuffle():
    def forward(m, x):
        return m.o(F.pixel_shuffle(m.b(m.a(x).relu()), 2))

    return Net(
        forward,
        a=nn.Conv2d(3, 12, 3, padding=1),
        b=nn.Conv2d(12, 24, 3, padding=1),
        o=nn.Conv2d(6, 3, 3, padding=1),
    ), *images(8, other_size=10)


@idiom
def space_to_depth():
    return between(
        lambda m, x: m.c(F.pixel_unshuffle(x, 2)), size=10, other_size=14, c=nn.Conv2d(64, 16, 1)
    )


@idiom
def focus_slices():
    def mix(m, x):
        parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return m.c(torch.cat(parts, 1))

    return between(mix, size=10, other_size=14, c=nn.Conv2d(64, 16, 1))


@idiom
def convnext_block():
    def mix(m, x):
        y = m.d(x).permute(0, 2, 3, 1)
        y = m.b(F.gelu(m.a(m.n(y)))) * m.scale
        return x + y.permute(0, 3, 1, 2)

    return between(
        mix,
        d=nn.Conv2d(16, 16, 7, padding=3, groups=16),
        n=nn.LayerNorm(16),
        a=nn.Linear(16, 32),
        b=nn.Linear(32, 16),
        scale=nn.Parameter(1e-6 * torch.ones(16)),
    )


@idiom
def global_response_norm():
    def mix(m, x):
        x = m.a(x.permute(0, 2, 3, 1))
        size = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        x = m.gamma * (x * (size / (size.mean(-1, keepdim=True) + 1e-6))) + m.beta + x
        return m.b(x).permute(0, 3, 1, 2)

    return between(
        mix,
        a=nn.Linear(16, 24),
        b=nn.Linear(24, 16),
        gamma=weight(1, 1, 1, 24),
        beta=weight(1, 1, 1, 24),
    )


@idiom
def involution():
    def mix(m, x):
        b, c, h, w = x.shape
        kernel = m.k(x).view(b, 4, 1, 9, h, w)
        patches = F.unfold(x, 3, padding=1).view(b, 4, c // 4, 9, h, w)
        return (kernel * patches).sum(3).view(b, c, h, w)

    return between(mix, k=nn.Conv2d(16, 36, 1))


@idiom
def deformable_convolution():
    from torchvision.ops import deform_conv2d

    def mix(m, x):
        return deform_conv2d(x, m.offset(x), m.w, padding=1, mask=m.mask(x).sigmoid())

    return between(
        mix,
        offset=nn.Conv2d(16, 18, 3, padding=1),
        mask=nn.Conv2d(16, 9, 3, padding=1),
        w=weight(16, 16, 3, 3),
    )


@idiom
def dynamic_convolution():
    def mix(m, x):
        b, c, h, w = x.shape
        share = m.r(x.mean((2, 3))).softmax(-1)
        own = torch.einsum("bk,koihw->boihw", share, m.w).reshape(b * 16, c, 3, 3)
        return F.conv2d(x.reshape(1, b * c, h, w), own, padding=1, groups=b).view(b, 16, h, w)

    return between(mix, r=nn.Linear(16, 3), w=weight(3, 16, 16, 3, 3))


@idiom
def selective_kernel():
    def mix(m, x):
        a, b = m.a(x).relu(), m.b(x).relu()
        z = m.z((a + b).mean((2, 3))).relu()
        share = torch.stack([m.p(z), m.q(z)], 1).softmax(1)[..., None, None]
        return (torch.stack([a, b], 1) * share).sum(1)

    return between(
        mix,
        a=nn.Conv2d(16, 16, 3, padding=1, groups=4),
        b=nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=4),
        z=nn.Linear(16, 8),
        p=nn.Linear(8, 16),
        q=nn.Linear(8, 16),
    )


@idiom
def split_attention_resnest():
    def mix(m, x):
        b, c, h, w = x.shape
        y = m.a(x).relu().view(b, 2, 16, h, w)
        gap = y.sum(1).mean((2, 3), keepdim=True)
        share = (
            m.q(m.p(gap).relu()).view(b, 1, 2, 16).transpose(1, 2).softmax(1).reshape(b, -1, 1, 1)
        )
        return (y * share.view(b, 2, 16, 1, 1)).sum(1)

    return between(
        mix,
        a=nn.Conv2d(16, 32, 3, padding=1, groups=2),
        p=nn.Conv2d(16, 8, 1),
        q=nn.Conv2d(8, 32, 1),
    )


@idiom
def coordinate_attention():
    def mix(m, x):
        b, c, h, w = x.shape
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)
        y = m.n(m.a(torch.cat([rows, columns], 2))).relu()
        rows, columns = torch.split(y, [h, w], 2)
        return x * m.h(rows).sigmoid() * m.w(columns.transpose(2, 3)).sigmoid()

    return between(
        mix,
        a=nn.Conv2d(16, 8, 1),
        n=nn.BatchNorm2d(8),
        h=nn.Conv2d(8, 16, 1),
        w=nn.Conv2d(8, 16, 1),
    )


@idiom
def coord_conv():
    def mix(m, x):
        b, _, h, w = x.shape
        rows = torch.linspace(-1, 1, h, dtype=x.dtype).view(1, 1, h, 1).expand(b, 1, h, w)
        columns = torch.linspace(-1, 1, w, dtype=x.dtype).view(1, 1, 1, w).expand(b, 1, h, w)
        return m.c(torch.cat([x, rows, columns], 1))

    return between(mix, c=nn.Conv2d(18, 16, 3))


@idiom
def generalised_mean_pooling():
    def forward(m, x):
        h = m.c(x).clamp(min=1e-6).pow(m.p)
        return m.o(F.avg_pool2d(h, h.shape[-2:]).pow(1 / m.p).flatten(1))

    return Net(
        forward, c=nn.Conv2d(3, 16, 3), p=nn.Parameter(torch.full((1,), 3.0)), o=nn.Linear(16, 3)
    ), *images(8)


@idiom
def net_vlad():
    def forward(m, x):
        h = F.normalize(m.c(x), dim=1)
        share = m.a(h).softmax(1).flatten(2)
        rest = h.flatten(2)[:, None] - m.centres[None, :, :, None]
        v = F.normalize((rest * share.unsqueeze(2)).sum(-1), dim=2)
        return m.o(F.normalize(v.flatten(1), dim=1))

    return Net(
        forward,
        c=nn.Conv2d(3, 12, 3),
        a=nn.Conv2d(12, 4, 1),
        centres=weight(4, 12),
        o=nn.Linear(48, 3),
    ), *images(8)


@idiom
def bilinear_pooling():
    def forward(m, x):
        h = m.c(x).relu().flatten(2)
        y = (h @ h.transpose(1, 2) / h.shape[2]).flatten(1)
        y = torch.sign(y) * torch.sqrt(y.abs() + 1e-10)
        return m.o(F.normalize(y))

    return Net(forward, c=nn.Conv2d(3, 12, 3), o=nn.Linear(144, 3)), *images(8)


@idiom
def spatial_pyramid_pooling():
    def forward(m, x):
        h = m.c(x).relu()
        return m.o(torch.cat([F.adaptive_max_pool2d(h, k).flatten(1) for k in (1, 2)], 1))

    return Net(forward, c=nn.Conv2d(3, 12, 3), o=nn.Linear(60, 3)), *images(8, other_size=12)


@idiom
def atrous_pyramid():
    def mix(m, x):
        pooled = F.interpolate(m.p(x.mean((2, 3), keepdim=True)), x.shape[2:], mode="nearest")
        return m.o2(torch.cat([*(c(x) for c in m.c), pooled], 1))

    parts = nn.ModuleList(nn.Conv2d(16, 8, 3, padding=d, dilation=d) for d in (1, 2, 3))
    return between(mix, c=parts, p=nn.Conv2d(16, 8, 1), o2=nn.Conv2d(32, 16, 1))


@idiom
def feature_pyramid():
    def forward(m, x):
        a = m.a(x).relu()
        b = m.b(a).relu()
        p = m.q(b)
        top = m.p(a) + F.interpolate(p, scale_factor=2.0, mode="nearest")
        return [m.head(top), m.head(p)]

    return Net(
        forward,
        a=nn.Conv2d(3, 8, 3, 1, 1),
        b=nn.Conv2d(8, 12, 3, 2, 1),
        p=nn.Conv2d(8, 10, 1),
        q=nn.Conv2d(12, 10, 1),
        head=nn.Conv2d(10, 4, 3, 1, 1),
    ), *images(8, other_size=12)


@idiom
def yolo_head():
    def forward(m, x):
        y = m.o(m.c(x).relu())
        b, _, h, w = y.shape
        y = y.view(b, 2, 7, h, w).permute(0, 1, 3, 4, 2)
        places = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy"), -1)
        centre = (y[..., :2].sigmoid() + places) * 8
        return torch.cat([centre, y[..., 2:4].exp(), y[..., 4:].sigmoid()], -1).flatten(1, 3)

    return Net(forward, c=nn.Conv2d(3, 12, 3), o=nn.Conv2d(12, 14, 1)), *images(8)


@idiom
def spatial_transformer():
    def forward(m, x):
        theta = m.l(m.a(x).relu().flatten(1)).view(-1, 2, 3)
        grid = F.affine_grid(theta, x.size(), align_corners=False)
        return m.o(m.c(F.grid_sample(x, grid, align_corners=False)).relu().mean((2, 3)))

    return Net(
        forward,
        a=nn.Conv2d(3, 4, 3),
        l=nn.Linear(4 * 36, 6),
        c=nn.Conv2d(3, 12, 3),
        o=nn.Linear(12, 3),
    ), *images(8)


@idiom
def grid_sampled_features():
    def forward(m, x, places):
        h = F.grid_sample(m.c(x), places[:, :, None], align_corners=True)
        return m.o(h.squeeze(-1).transpose(1, 2))

    examples = [(x, torch.rand(len(x), 5, 2) * 2 - 1) for x in images(8)]
    return Net(forward, c=nn.Conv2d(3, 12, 3), o=nn.Linear(12, 3)), *examples


@idiom
def correlation_volume():
    def forward(m, x, y):
        a, b = m.c(x).flatten(2), m.c(y).flatten(2)
        return m.o((a.transpose(1, 2) @ b / 4).softmax(-1) @ b.transpose(1, 2))

    examples = [(x, torch.randn_like(x)) for x in images(6)]
    return Net(forward, c=nn.Conv2d(3, 12, 3), o=nn.Linear(12, 2)), *examples


@idiom
def antialiased_down():
    def mix(m, x):
        kernel = torch.tensor([1.0, 2, 1], dtype=x.dtype)
        kernel = (kernel[:, None] * kernel / 16).expand(16, 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=16)

    return between(mix)


@idiom
def antialiased_buffer():
    class Blur(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.register_buffer("kernel", torch.full((3, 3), 1 / 9).repeat(channels, 1, 1, 1))

        def forward(self, x):
            return F.conv2d(x, self.kernel, stride=2, groups=x.shape[1])

    return between(lambda m, x: m.c(m.blur(x)), blur=Blur(16), c=nn.Conv2d(16, 16, 1))


@idiom
def resize_bicubic_antialias():
    return between(
        lambda m, x: m.c(F.interpolate(x, (5, 5), mode="bicubic", antialias=True)),
        c=nn.Conv2d(16, 16, 1),
    )


@idiom
def csp_split():
    def mix(m, x):
        a, b = x.split(8, 1)
        return m.p(torch.cat([a, m.c(b).relu()], 1))

    return between(mix, c=nn.Conv2d(8, 8, 3, padding=1), p=nn.Conv2d(16, 16, 1))


@idiom
def dense_block():
    def mix(m, x):
        for c in m.layers:
            x = torch.cat([x, c(x).relu()], 1)
        return m.p(x)

    return between(
        mix,
        layers=nn.ModuleList(nn.Conv2d(16 + 4 * i, 4, 3, padding=1) for i in range(3)),
        p=nn.Conv2d(28, 16, 1),
    )


@idiom
def res2net_split():
    def mix(m, x):
        parts, y = x.chunk(4, 1), 0
        out = [parts[0]]
        for c, part in zip(m.c, parts[1:], strict=True):
            y = c(part + y).relu()
            out.append(y)
        return m.p(torch.cat(out, 1))

    return between(
        mix,
        c=nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)),
        p=nn.Conv2d(16, 16, 1),
    )


@idiom
def maxout():
    def mix(m, x):
        return m.c(x).unflatten(1, (16, 3)).amax(2)

    return between(mix, c=nn.Conv2d(16, 48, 1))


@idiom
def lightcnn_max_feature():
    def mix(m, x):
        a, b = torch.split(m.c(x), 16, 1)
        return torch.max(a, b)

    return between(mix, c=nn.Conv2d(16, 32, 1))


@idiom
def stochastic_depth():
    class DropPath(nn.Module):
        def forward(self, x):
            if not self.training:
                return x
            keep = torch.rand(len(x), 1, 1, 1) < 0.9
            return x * keep / 0.9

    return between(
        lambda m, x: x + m.drop(m.c(x)), drop=DropPath(), c=nn.Conv2d(16, 16, 3, padding=1)
    )


@idiom
def rep_vgg_branches():
    return between(
        lambda m, x: (m.a(m.c(x)) + m.b(m.d(x)) + m.n(x)).relu(),
        a=nn.BatchNorm2d(16),
        b=nn.BatchNorm2d(16),
        n=nn.BatchNorm2d(16),
        c=nn.Conv2d(16, 16, 3, padding=1, bias=False),
        d=nn.Conv2d(16, 16, 1, bias=False),
    )


@idiom
def mlp_mixer():
    def forward(m, x):
        h = m.i(x).flatten(2).transpose(1, 2)
        h = h + m.places(m.n(h).transpose(1, 2)).transpose(1, 2)
        return m.o((h + m.channels(h)).mean(1))

    places = nn.Sequential(nn.Linear(16, 10), nn.GELU(), nn.Linear(10, 16))
    channels = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
    return Net(
        forward,
        i=nn.Conv2d(3, 12, 4, 4),
        n=nn.LayerNorm(12),
        places=places,
        channels=channels,
        o=nn.Linear(12, 3),
    ), *images(16)


@idiom
def spatial_gating_gmlp():
    def forward(m, x):
        h = m.i(x).flatten(2).transpose(1, 2)
        u, v = F.gelu(m.a(m.n(h))).chunk(2, -1)
        v = m.places(m.k(v).transpose(1, 2)).transpose(1, 2)
        return m.o((h + m.b(u * v)).mean(1))

    return Net(
        forward,
        i=nn.Conv2d(3, 12, 4, 4),
        n=nn.LayerNorm(12),
        a=nn.Linear(12, 40),
        k=nn.LayerNorm(20),
        places=nn.Linear(16, 16),
        b=nn.Linear(20, 12),
        o=nn.Linear(12, 3),
    ), *images(16)


@idiom
def fourier_mixer():
    def mix(m, x):
        return m.c(torch.fft.fft2(x, dim=(1, 2)).real)

    return between(mix, c=nn.Conv2d(16, 16, 1))


@idiom
def global_filter():
    def mix(m, x):
        y = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(m.w)
        return torch.fft.irfft2(y, s=x.shape[2:], norm="ortho")

    return between(mix, other_size=8, w=weight(16, 6, 4, 2))


@idiom
def fourier_neural_operator():
    def mix(m, x):
        y = torch.fft.rfft2(x)
        low = torch.einsum("bixy,ioxy->boxy", y[:, :, :3, :3], m.w)
        full = torch.zeros(len(x), 16, *y.shape[2:], dtype=y.dtype)
        full[:, :, :3, :3] = low
        return F.gelu(torch.fft.irfft2(full, s=x.shape[2:]) + m.c(x))

    return between(
        mix,
        w=nn.Parameter(torch.randn(16, 16, 3, 3, dtype=torch.cfloat) / 16),
        c=nn.Conv2d(16, 16, 1),
    )


@idiom
def octave_convolution():
    def mix(m, x):
        low = F.avg_pool2d(m.down(x), 2)
        return m.a(x).relu() + F.interpolate(m.b(low).relu(), size=x.shape[2:])

    return between(mix, down=nn.Conv2d(16, 6, 1), a=nn.Conv2d(16, 16, 1), b=nn.Conv2d(6, 16, 1))


@idiom
def video_3d_convolution():
    net = nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1),
        nn.BatchNorm3d(8),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(8, 12, (1, 3, 3)),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )
    return net, torch.randn(2, 3, 4, 8, 8), torch.randn(3, 3, 6, 10, 10)


@idiom
def frames_in_the_batch():
    def forward(m, x):
        b, t = x.shape[:2]
        h = m.c(x.flatten(0, 1)).relu().mean((2, 3)).view(b, t, -1)
        return m.o(m.r(h)[0][:, -1])

    return (
        Net(forward, c=nn.Conv2d(3, 8, 3), r=nn.LSTM(8, 10, batch_first=True), o=nn.Linear(10, 3)),
        torch.randn(2, 4, 3, 8, 8),
        torch.randn(3, 5, 3, 8, 8),
    )


@idiom
def temporal_shift():
    def forward(m, x):
        b, t = x.shape[:2]
        h = m.a(x.flatten(0, 1)).relu()
        h = h.view(b, t, *h.shape[1:])
        out = torch.zeros_like(h)
        out[:, :-1, :2] = h[:, 1:, :2]
        out[:, 1:, 2:4] = h[:, :-1, 2:4]
        out[:, :, 4:] = h[:, :, 4:]
        return m.o(m.b(out.flatten(0, 1)).mean((2, 3)).view(b, t, -1).mean(1))

    return (
        Net(forward, a=nn.Conv2d(3, 12, 3), b=nn.Conv2d(12, 8, 3), o=nn.Linear(8, 3)),
        torch.randn(2, 4, 3, 8, 8),
        torch.randn(3, 5, 3, 8, 8),
    )


@idiom
def capsules():
    def forward(m, x):
        u = m.c(x).view(len(x), -1, 4)
        u = u * (u.norm(dim=-1, keepdim=True) / (1 + u.square().sum(-1, keepdim=True)))
        votes = torch.einsum("bid,jide->bjie", u, m.w)
        logits = torch.zeros(votes.shape[:3], dtype=x.dtype)
        for _ in range(2):
            v = (logits.softmax(1).unsqueeze(-1) * votes).sum(2)
            v = v * (v.norm(dim=-1, keepdim=True) / (1 + v.square().sum(-1, keepdim=True)))
            logits = logits + (votes * v.unsqueeze(2)).sum(-1)
        return v.norm(dim=-1)

    return Net(forward, c=nn.Conv2d(3, 8, 3), w=weight(3, 18, 4, 6)), *images(5)


@idiom
def patch_merging():
    def mix(m, x):
        x = x.permute(0, 2, 3, 1)
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return m.r(m.n(x)).permute(0, 3, 1, 2)

    return between(mix, size=10, other_size=14, n=nn.LayerNorm(64), r=nn.Linear(64, 16, bias=False))


@idiom
def patches_by_unfold():
    def forward(m, x):
        patches = (
            x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        )
        return m.o(m.a(patches).relu().mean(1))

    return Net(forward, a=nn.Linear(48, 16), o=nn.Linear(16, 3)), *images(8, other_size=12)


@idiom
def fold_back():
    def mix(m, x):
        patches = m.p(F.unfold(x, 2, stride=2).transpose(1, 2)).transpose(1, 2)
        return F.fold(patches, x.shape[2:], 2, stride=2)

    return between(mix, size=10, other_size=14, p=nn.Linear(64, 64))


@idiom
def locally_connected():
    def mix(m, x):
        patches = F.unfold(x, 3).unflatten(1, (16, 9))
        return torch.einsum("bikl,oikl->bol", patches, m.w).unflatten(2, (4, 4))

    return between(mix, other_size=8, w=weight(16, 16, 9, 16))


@idiom
def haar_wavelet():
    def mix(m, x):
        a, b = x[..., ::2, :] + x[..., 1::2, :], x[..., ::2, :] - x[..., 1::2, :]
        return m.c(torch.cat([a, b], 1))

    return between(mix, size=10, other_size=14, c=nn.Conv2d(32, 16, 1))


@idiom
def siamese_absolute_difference():
    def forward(m, x, y):
        return m.o((m.e(x) - m.e(y)).abs())

    encoder = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 12),
        nn.ReLU(),
    )
    examples = [(x, torch.randn_like(x)) for x in images(8)]
    return Net(forward, e=encoder, o=nn.Linear(12, 1)), *examples


@idiom
def style_gram_matrices():
    def forward(m, x):
        h = m.b(m.a(x).relu()).relu()
        b, c, r, w = h.shape
        h = h.view(b, c, r * w)
        return m.o(torch.bmm(h, h.transpose(1, 2)).div(c * r * w).view(b, -1))

    return Net(forward, a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 6, 3), o=nn.Linear(36, 2)), *images(8)


@idiom
def diffusion_residual_block():
    def forward(m, x, t):
        h = m.i(x)
        time = m.t(t[:, None].to(x.dtype))
        y = m.a(F.silu(m.n(h))) + m.e(F.silu(time))[:, :, None, None]
        return m.o(h + m.b(F.silu(m.k(y))))

    examples = [(x, torch.randint(0, 10, (len(x),))) for x in images(8)]
    return Net(
        forward,
        i=nn.Conv2d(3, 16, 3, 1, 1),
        n=nn.GroupNorm(4, 16),
        t=nn.Linear(1, 12),
        a=nn.Conv2d(16, 24, 3, 1, 1),
        e=nn.Linear(12, 24),
        k=nn.GroupNorm(8, 24),
        b=nn.Conv2d(24, 16, 3, 1, 1),
        o=nn.Conv2d(16, 3, 1),
    ), *examples


@idiom
def masked_pixel_cnn():
    class Masked(nn.Conv2d):
        def __init__(self, *sizes, **options):
            super().__init__(*sizes, **options)
            mask = torch.ones_like(self.weight)
            mask[:, :, 1, 1:], mask[:, :, 2:] = 0, 0
            self.register_buffer("mask", mask)

        def forward(self, x):
            return self._conv_forward(x, self.weight * self.mask, self.bias)

    return nn.Sequential(
        Masked(1, 12, 3, padding=1),
        nn.ReLU(),
        Masked(12, 10, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(10, 4, 1),
    ), *images(8, 1)


@idiom
def real_nvp_coupling():
    def forward(m, x):
        total = 0
        for part in (m.a, m.b):
            left, right = x.chunk(2, 1)
            scale, shift = part(left).chunk(2, 1)
            x = torch.cat([right * scale.tanh().exp() + shift, left], 1)
            total = total + scale.tanh().sum(1)
        return x, total

    def part():
        return nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 6))

    return Net(forward, a=part(), b=part()), *vectors(6)
