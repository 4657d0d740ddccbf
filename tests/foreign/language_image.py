"""open_clip: small towers for images and texts, of several kinds."""

import open_clip
import torch

from . import register

BUILDERS = {}
add = register(BUILDERS)
TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 4, "layers": 2}
VISION = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 8}


def examples(size=32):
    "Images with texts."
    return [(torch.randn(n, 3, size, size), torch.randint(1, 50, (n, 8))) for n in (2, 3)]


@add
def clip_vision_transformer():
    return open_clip.CLIP(16, VISION, TEXT), *examples()


@add
def clip_resnet():
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    return open_clip.CLIP(16, vision, TEXT), *examples()


@add
def clip_quick_gelu_dictionary():
    return open_clip.CLIP(16, VISION, TEXT, quick_gelu=True, output_dict=True), *examples()


@add
def clip_custom_text_tower():
    return open_clip.CustomTextCLIP(16, VISION, TEXT), *examples()


@add
def siglip_style():
    vision = VISION | {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True}
    text = TEXT | {"pool_type": "last", "no_causal_mask": True, "proj_bias": True}
    return open_clip.CustomTextCLIP(16, vision, text, init_logit_bias=-10.0), *examples()


@add
def attentional_pooling():
    vision = VISION | {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 4}
    return open_clip.CLIP(16, vision, TEXT), *examples()


@add
def coca():
    vision = VISION | {
        "attentional_pool": True,
        "attn_pooler_heads": 4,
        "attn_pooler_queries": 4,
        "output_tokens": True,
    }
    text = TEXT | {"embed_cls": True, "output_tokens": True}
    decoder = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 4, "layers": 1}
    return open_clip.CoCa(32, decoder, text, vision), *examples()


@add
def clip_timm_tower():
    vision = {
        "timm_model_name": "resnet18",
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 32,
    }
    return open_clip.CLIP(16, vision, TEXT), *examples()


@add
def image_tower_alone():
    model = open_clip.CLIP(16, VISION, TEXT).visual
    return model, *(own[0] for own in examples())
