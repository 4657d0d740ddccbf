"""The networks of `matching.py`: pairs at random, and what is trained."""
import math
from functools import partial

import torch
from torch import nn
from torchvision.datasets import MNIST
from torchvision.models import VisionTransformer

from starlight_nb.data import Dataset, Split, load
from starlight_nb.models import build
from starlight_nb.paper.profiles import load_profile
from starlight_nb.training import Recipe


def vgg():
    "VGG11 with its convolutions drawn as the original code does."
    model = build("vgg11")
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (9 * layer.out_channels)))
    return model


def vit():
    "A small vision transformer; torchvision's own head starts from 0."
    model = VisionTransformer(image_size=32, patch_size=8, num_layers=4, num_heads=4,
                              hidden_dim=128, mlp_dim=256, num_classes=10)
    for layer in (model.conv_proj, model.heads.head): nn.init.normal_(layer.weight, std=0.05)
    return model


MLP = partial(build, "mlp", input_shape=(1, 28, 28))
NETWORKS = {"MLP 3x512": (partial(MLP, width=512), (1, 28, 28)),
            "ViT 4x128": (vit, (3, 32, 32)),
            "ResNet-18": (partial(build, "resnet18"), (3, 32, 32)),
            "DenseNet-40-12": (partial(build, "densenet40"), (3, 32, 32)),
            "VGG11": (vgg, (3, 32, 32))}
PEERS = {  # cos_w of four other implementations
    "MLP 3x512": 0.10871, "VGG11": 0.05133, "ResNet-18": 0.06714}


def random_pair(make, shape):
    "Two networks at random, and an input."
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(make().eval())
    return *models, torch.randn(2, *shape)


def mnist(root):
    "10,000 images for training, 2,000 for the test."
    def split(train, size):
        part = MNIST(root, train=train, download=False)
        images = part.data[:size, None].float() / 255
        return Split((images - 0.1307) / 0.3081, part.targets[:size])
    return Dataset("mnist", train=split(True, 10_000), test=split(False, 2_000))


def digits_networks():
    "Label, network, data and recipe of three settings of the profile `digits`."
    known = load_profile("digits").settings
    for setting in [known[name] for name in ("mlp3", "resnet8", "resnet16")]:
        make = partial(build, setting.architecture, **setting.model)
        yield f"{setting.label}, digits", make, load(setting.dataset), setting.recipe


def mnist_networks(root):
    "Label, network, data and recipe of MLPs on MNIST."
    data = mnist(root)
    recipe = Recipe(epochs=20, batch_size=128, lr=0.05, schedule="one-cycle")
    for depth, width in [(1, 32), (1, 64), (2, 32), (2, 64)]:
        make = partial(MLP, depth=depth, width=width)
        yield f"MLP {depth}x{width}, MNIST", make, data, recipe


def trained_networks(root):
    "Those of digits, and those of MNIST where there is a folder of it."
    return [*digits_networks(), *(mnist_networks(root) if root else [])]
