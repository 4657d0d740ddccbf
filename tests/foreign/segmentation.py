"""segmentation-models-pytorch: each decoder, and encoders of several families."""

from functools import partial

import segmentation_models_pytorch as smp

from . import images

BUILDERS = {}


def network(kind, encoder="resnet18", size=64, **options):
    "A network with a random encoder."
    model = getattr(smp, kind)(encoder, encoder_weights=None, classes=3, **options)
    return model, *images(size, other_size=size if kind == "DPT" else 2 * size)


for kind in (
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "DeepLabV3",
    "DeepLabV3Plus",
    "Segformer",
    "UPerNet",
):
    BUILDERS[kind] = partial(network, kind)
BUILDERS["PAN"] = partial(network, "PAN", size=128)
BUILDERS["PSPNet"] = partial(network, "PSPNet", size=96)
BUILDERS["DPT"] = partial(network, "DPT", "tu-vit_tiny_patch16_224", size=224)
for encoder in (
    "mobilenet_v2",
    "efficientnet-b0",
    "mit_b0",
    "densenet121",
    "vgg11_bn",
    "timm-mobilenetv3_small_100",
    "tu-convnext_atto",
    "se_resnet50",
    "mobileone_s0",
    "timm-regnetx_002",
):
    BUILDERS[f"Unet_{encoder}"] = partial(network, "Unet", encoder)
BUILDERS["Unet_attention"] = partial(network, "Unet", decoder_attention_type="scse")
BUILDERS["Unet_with_classifier"] = partial(
    network, "Unet", aux_params={"classes": 4, "dropout": 0.1}
)
