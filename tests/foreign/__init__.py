"""Models of other packages, each with an example and another input: what inference is tried on.

A file a source. Each has `BUILDERS`: by name, functions of no arguments that return a model with
random weights, an example, and another input, as `infer_spec` takes them.
"""
from importlib import import_module
from importlib.util import find_spec

import torch

SOURCES = {  # file: the package that it needs
    "timm_models": "timm",
    "hugging_face": "transformers",
    "vision": "torchvision",
    "graphs": "torch_geometric",
    "segmentation": "segmentation_models_pytorch",
    "generative": "diffusers",
    "adapters": "peft",
    "medical": "monai",
    "audio": "torchaudio",
    "language_image": "open_clip",
    "transformers_x": "x_transformers",
    "idioms": "torch",
}


def is_installed(source):
    "Is the package there that a source needs?"
    return find_spec(SOURCES[source]) is not None


def builders(source):
    "The builders of a source by name."
    return import_module(f"{__name__}.{source}").BUILDERS


def build(source, name):
    "A model with random weights, its example and another input; the same every time."
    torch.manual_seed(0)
    return builders(source)[name]()


def images(size=32, channels=3, other_size=None, batch=2):
    "An example of some images, and other images in another number."
    other_size = other_size or size
    return (torch.randn(batch, channels, size, size),
            torch.randn(batch + 1, channels, other_size, other_size))


def tokens(vocabulary=50, length=7, other_length=9, batch=2):
    "An example of some texts as numbers of words, and other ones of another length."
    return (torch.randint(1, vocabulary, (batch, length)),
            torch.randint(1, vocabulary, (batch + 1, other_length)))
