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
    "idioms_attention": "torch",
    "idioms_images": "torch",
    "idioms_sequences": "torch",
    "idioms_sets": "torch",
    "idioms_forms": "torch",
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
    return (
        torch.randn(batch, channels, size, size),
        torch.randn(batch + 1, channels, other_size, other_size),
    )


def tokens(vocabulary=50, length=7, other_length=9, batch=2):
    "An example of some texts as numbers of words, and other ones of another length."
    return (
        torch.randint(1, vocabulary, (batch, length)),
        torch.randint(1, vocabulary, (batch + 1, other_length)),
    )


class Net(torch.nn.Module):
    "A network of some modules and parameters, and a function of itself and its inputs."

    def __init__(self, function, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self._function = function

    def forward(self, *inputs, **named):
        return self._function(self, *inputs, **named)


def weight(*shape):
    "A parameter of this shape."
    return torch.nn.Parameter(torch.randn(shape) / max(shape[-1], 1) ** 0.5)


def vectors(width=6, batch=4):
    "An example of some vectors, and other vectors in another number."
    return torch.randn(batch, width), torch.randn(batch + 1, width)


def sequences(width=6, length=7, other_length=9, batch=2):
    "An example of sequences of vectors, and other ones of another length."
    return torch.randn(batch, length, width), torch.randn(batch + 1, other_length, width)


def register(table):
    "A decorator that puts a builder into a table under its name."

    def add(function):
        table[function.__name__] = function
        return function

    return add
