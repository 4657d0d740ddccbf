"""torchvision: detection, segmentation, video, optical flow, and some of its operations."""

from functools import partial

import torch
from torch import nn
from torchvision import models, ops
from torchvision.models.video import mvit

from . import Net, images, register, weight

BUILDERS = {}
add = register(BUILDERS)
PLAIN = {"weights": None, "weights_backbone": None}


def pictures(size, count):
    "A list of images, as detectors take them."
    return [torch.rand(3, size, size) for _ in range(count)]


def detector(name, size=64, **options):
    "A detector that keeps few boxes, and lists of images."
    model = models.get_model(name, num_classes=4, **PLAIN, **options)
    return model, (pictures(size, 1),), (pictures(size, 2),)


SMALL = {"min_size": 64, "max_size": 96}
FEW = {
    "rpn_pre_nms_top_n_test": 20,
    "rpn_post_nms_top_n_test": 8,
    "box_detections_per_img": 4,
    "box_score_thresh": 0.0,
}
for name, options in {
    "fasterrcnn_mobilenet_v3_large_320_fpn": SMALL | FEW,
    "fasterrcnn_mobilenet_v3_large_fpn": SMALL | FEW,
    "fasterrcnn_resnet50_fpn": SMALL | FEW,
    "fasterrcnn_resnet50_fpn_v2": SMALL | FEW,
    "maskrcnn_resnet50_fpn": SMALL | FEW,
    "maskrcnn_resnet50_fpn_v2": SMALL | FEW,
    "keypointrcnn_resnet50_fpn": SMALL | FEW,
    "fcos_resnet50_fpn": SMALL,
    "retinanet_resnet50_fpn": SMALL,
    "retinanet_resnet50_fpn_v2": SMALL,
    "ssd300_vgg16": {},
    "ssdlite320_mobilenet_v3_large": {},
}.items():
    BUILDERS[name] = partial(detector, name, **options)


def heads_only(name):
    "The part of a detector that is differentiable: features and heads."
    whole = models.get_model(name, num_classes=4, **PLAIN, **SMALL)

    def forward(m, x):
        return m.head(list(m.backbone(x).values()))

    return Net(forward, backbone=whole.backbone, head=whole.head), *images(64)


for name in ("fcos_resnet50_fpn", "retinanet_resnet50_fpn"):
    BUILDERS[f"{name}_heads"] = partial(heads_only, name)


def segmenter(name, **options):
    "A network that labels pixels."
    model = models.get_model(name, num_classes=4, **PLAIN, **options)
    return model, *images(64, other_size=72)


for name in (
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet50",
    "fcn_resnet50",
    "fcn_resnet101",
    "deeplabv3_resnet101",
    "lraspp_mobilenet_v3_large",
):
    BUILDERS[name] = partial(segmenter, name)
BUILDERS["fcn_resnet50_auxiliary"] = partial(segmenter, "fcn_resnet50", aux_loss=True)


def clips(frames, size):
    "An example of short videos, and other ones."
    return torch.randn(1, 3, frames, size, size), torch.randn(2, 3, frames, size, size)


for name, shape in {
    "mc3_18": (4, 32),
    "r3d_18": (4, 32),
    "r2plus1d_18": (4, 32),
    "s3d": (16, 224),
    "swin3d_t": (4, 32),
}.items():
    BUILDERS[name] = lambda name=name, shape=shape: (
        models.get_model(name, num_classes=4),
        *clips(*shape),
    )


def multiscale(**options):
    "A small MViT; the published sizes take minutes."
    setting = dict(kernel_q=[3, 3, 3], kernel_kv=[3, 3, 3])
    blocks = [
        mvit.MSBlockConfig(1, 8, 16, stride_q=[1, 1, 1], stride_kv=[1, 2, 2], **setting),
        mvit.MSBlockConfig(2, 16, 32, stride_q=[1, 2, 2], stride_kv=[1, 1, 1], **setting),
        mvit.MSBlockConfig(2, 32, 32, stride_q=[1, 1, 1], stride_kv=[1, 1, 1], **setting),
    ]
    model = mvit.MViT(
        (32, 32),
        8,
        blocks,
        residual_pool=True,
        residual_with_cls_embed=False,
        num_classes=4,
        **options,
    )
    return model, *clips(8, 32)


BUILDERS["mvit_v1_small"] = partial(multiscale, rel_pos_embed=False, proj_after_attn=False)
BUILDERS["mvit_v2_small"] = partial(multiscale, rel_pos_embed=True, proj_after_attn=True)


@add
def raft_small():
    model = models.get_model("raft_small")
    pairs = [(torch.rand(n, 3, 128, 128), torch.rand(n, 3, 128, 128), 2) for n in (1, 2)]
    return model, *pairs


@add
def raft_large():
    model = models.get_model("raft_large")
    pairs = [(torch.rand(n, 3, 128, 128), torch.rand(n, 3, 128, 128), 1) for n in (1, 2)]
    return model, *pairs


for name in ("resnet18", "mobilenet_v3_large", "shufflenet_v2_x0_5", "googlenet"):
    BUILDERS[f"quantizable_{name}"] = lambda name=name: (
        models.get_model(
            f"quantized_{name}",
            quantize=False,
            num_classes=4,
            **({"aux_logits": False, "init_weights": True} if name == "googlenet" else {}),
        ),
        *images(64),
    )


@add
def feature_pyramid_network():
    backbone = models.resnet18(num_classes=3)
    body = models._utils.IntermediateLayerGetter(
        backbone, {"layer1": "a", "layer2": "b", "layer4": "c"}
    )
    pyramid = ops.FeaturePyramidNetwork([64, 128, 512], 16)
    return Net(lambda m, x: m.p(m.b(x)), b=body, p=pyramid), *images(64)


@add
def region_of_interest_head():
    def forward(m, x, boxes):
        h = ops.roi_align(m.c(x).relu(), boxes, (3, 3), spatial_scale=0.5, sampling_ratio=2)
        return m.o(h.flatten(1))

    examples = []
    for x in images(16):
        low = 5 * torch.rand(4, 2)
        numbers = torch.arange(4).remainder(len(x)).unsqueeze(1)
        examples.append((x, torch.cat([numbers.float(), low, low + 6], 1)))
    return Net(forward, c=nn.Conv2d(3, 8, 3, 2, 1), o=nn.Linear(72, 3)), *examples


@add
def deformable_convolution_module():
    def forward(m, x):
        h = m.i(x).relu()
        return m.o(m.d(h, m.offset(h)).relu().mean((2, 3)))

    return Net(
        forward,
        i=nn.Conv2d(3, 8, 3),
        offset=nn.Conv2d(8, 18, 3),
        d=ops.DeformConv2d(8, 12, 3),
        o=nn.Linear(12, 3),
    ), *images(10)


@add
def position_sensitive_pooling():
    def forward(m, x, boxes):
        return ops.ps_roi_pool(m.c(x), boxes, 2).mean((2, 3))

    boxes = torch.tensor([[0.0, 1, 1, 9, 9], [1, 2, 2, 11, 11]])
    examples = [(x, boxes) for x in images(16)]
    return Net(
        forward, c=nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 12, 1))
    ), *examples


@add
def squeeze_excitation_and_stochastic_depth():
    net = nn.Sequential(
        ops.Conv2dNormActivation(3, 12),
        ops.SqueezeExcitation(12, 4),
        ops.StochasticDepth(0.1, "row"),
        ops.Permute([0, 2, 3, 1]),
        nn.LayerNorm(12),
        ops.MLP(12, [16, 5]),
    )
    return net, *images(8)


@add
def feature_extractor():
    from torchvision.models.feature_extraction import create_feature_extractor

    model = create_feature_extractor(models.resnet18(num_classes=3), {"layer2": "a", "fc": "b"})
    return model, *images(32)


@add
def dino_style_two_crops():
    body = models.resnet18(num_classes=16)

    def forward(m, small, large):
        return m.h(m.b(small)), m.h(m.b(large)) @ m.w

    head = nn.Sequential(nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 8))
    examples = [(torch.randn(n, 3, 32, 32), torch.randn(n, 3, 48, 48)) for n in (2, 3)]
    return Net(forward, b=body, h=head, w=weight(8, 5)), *examples
