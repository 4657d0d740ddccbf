"""MONAI: networks for medical images and volumes, small."""

from functools import partial

import torch
from monai.networks import nets

from . import images

BUILDERS = {}


def volumes(size, channels=1, other_size=None):
    "An example of a volume, and other volumes."
    other = other_size or size
    return torch.randn(1, channels, *[size] * 3), torch.randn(2, channels, *[other] * 3)


def flat(kind, side=32, **options):
    "A network on images."
    return getattr(nets, kind)(**options), *images(side, 1)


def solid(kind, side=16, **options):
    "A network on volumes."
    return getattr(nets, kind)(**options), *volumes(side)


PLANE = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3}
SPACE = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
for kind, build, options in (
    ("UNet", flat, {**PLANE, "channels": (4, 8, 12), "strides": (2, 2), "num_res_units": 2}),
    ("BasicUNet", flat, {**PLANE, "features": (4, 4, 6, 8, 10, 4)}),
    ("BasicUNetPlusPlus", flat, {**PLANE, "features": (4, 4, 6, 8, 10, 4)}),
    ("AttentionUnet", flat, {**PLANE, "channels": (4, 8, 12), "strides": (2, 2)}),
    (
        "DynUNet",
        flat,
        {
            **PLANE,
            "kernel_size": [3, 3, 3],
            "strides": [1, 2, 2],
            "filters": [4, 6, 8],
            "upsample_kernel_size": [2, 2],
        },
    ),
    (
        "SegResNet",
        flat,
        {**PLANE, "init_filters": 8, "blocks_down": (1, 1, 1), "blocks_up": (1, 1)},
    ),
    ("SegResNetDS", flat, {**PLANE, "init_filters": 8, "blocks_down": (1, 1, 1)}),
    (
        "FlexibleUNet",
        flat,
        {"in_channels": 1, "out_channels": 3, "backbone": "efficientnet-b0", "spatial_dims": 2},
    ),
    ("HighResNet", flat, {**PLANE}),
    ("AutoEncoder", flat, {**PLANE, "channels": (4, 6), "strides": (2, 2)}),
    (
        "VarAutoEncoder",
        flat,
        {
            "spatial_dims": 2,
            "in_shape": (1, 32, 32),
            "out_channels": 1,
            "latent_size": 5,
            "channels": (4, 6),
            "strides": (2, 2),
        },
    ),
    ("DenseNet121", flat, {"spatial_dims": 2, "in_channels": 1, "out_channels": 3}),
    ("SEResNet50", flat, {"spatial_dims": 2, "in_channels": 1, "num_classes": 3}),
    (
        "EfficientNetBN",
        flat,
        {
            "model_name": "efficientnet-b0",
            "spatial_dims": 2,
            "in_channels": 1,
            "num_classes": 3,
            "pretrained": False,
        },
    ),
    (
        "ResNet",
        flat,
        {
            "block": "basic",
            "layers": [1, 1, 1, 1],
            "block_inplanes": [4, 6, 8, 10],
            "spatial_dims": 2,
            "n_input_channels": 1,
            "num_classes": 3,
        },
    ),
    (
        "ViT",
        flat,
        {
            "in_channels": 1,
            "img_size": 32,
            "patch_size": 8,
            "hidden_size": 24,
            "mlp_dim": 32,
            "num_layers": 2,
            "num_heads": 4,
            "classification": True,
            "spatial_dims": 2,
        },
    ),
    (
        "ViTAutoEnc",
        flat,
        {
            "in_channels": 1,
            "img_size": 32,
            "patch_size": 4,
            "hidden_size": 24,
            "mlp_dim": 32,
            "num_layers": 2,
            "num_heads": 4,
            "spatial_dims": 2,
        },
    ),
    (
        "UNETR",
        flat,
        {
            **PLANE,
            "img_size": 32,
            "feature_size": 4,
            "hidden_size": 24,
            "mlp_dim": 32,
            "num_heads": 4,
        },
    ),
    (
        "SwinUNETR",
        partial(flat, side=64),
        {**PLANE, "feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (2, 2, 2, 2)},
    ),
    (
        "AutoencoderKL",
        flat,
        {
            **PLANE,
            "channels": (8, 16),
            "latent_channels": 3,
            "norm_num_groups": 4,
            "num_res_blocks": (1, 1),
            "attention_levels": (False, True),
        },
    ),
    (
        "VQVAE",
        flat,
        {
            **PLANE,
            "channels": (8, 12),
            "num_res_layers": 1,
            "num_res_channels": (8, 12),
            "downsample_parameters": ((2, 4, 1, 1),) * 2,
            "num_embeddings": 16,
            "upsample_parameters": ((2, 4, 1, 1, 0),) * 2,
            "embedding_dim": 6,
        },
    ),
    (
        "PatchDiscriminator",
        flat,
        {"spatial_dims": 2, "channels": 8, "in_channels": 1, "num_layers_d": 2},
    ),
    ("VNet", solid, {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}),
    ("MedNeXtS", partial(solid, side=32), {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}),
    (
        "SegResNetVAE",
        solid,
        {
            "input_image_size": (16, 16, 16),
            "in_channels": 1,
            "out_channels": 2,
            "init_filters": 8,
            "blocks_down": (1, 1, 1),
            "blocks_up": (1, 1),
        },
    ),
    ("RegUNet", flat, {"spatial_dims": 2, "in_channels": 1, "num_channel_initial": 4, "depth": 2}),
    (
        "Classifier",
        flat,
        {"in_shape": (1, 32, 32), "classes": 3, "channels": (4, 6), "strides": (2, 2)},
    ),
    ("Generator", None, {}),
    ("FullyConnectedNet", None, {}),
):
    if build:
        BUILDERS[kind] = partial(build, kind, **options)


def Generator():
    "A network from vectors to images."
    model = nets.Generator(
        latent_shape=(5,), start_shape=(6, 4, 4), channels=(8, 4), strides=(2, 2)
    )
    return model, torch.randn(2, 5), torch.randn(3, 5)


def FullyConnectedNet():
    "A network on vectors."
    return nets.FullyConnectedNet(6, 3, (12, 10)), torch.randn(4, 6), torch.randn(5, 6)


def DiffusionModelUNet():
    "A denoiser."
    model = nets.DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(8, 16),
        attention_levels=(False, True),
        norm_num_groups=4,
        num_res_blocks=1,
        num_head_channels=4,
    )
    return model, *((x, torch.randint(0, 100, (len(x),))) for x in images(16, 1))


def MILModel():
    "A network on bags of images."
    model = nets.MILModel(3, mil_mode="att", pretrained=False, backbone="resnet18")
    return model, torch.randn(2, 3, 3, 32, 32), torch.randn(1, 4, 3, 32, 32)


BUILDERS |= {
    own.__name__: own for own in (Generator, FullyConnectedNet, DiffusionModelUNet, MILModel)
}
