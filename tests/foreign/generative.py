"""diffusers: small denoisers, autoencoders and transformers of diffusion."""

import diffusers
import torch

from . import images, register

BUILDERS = {}
add = register(BUILDERS)
NUMBERS = (2, 3)


def times(n):
    return torch.randint(0, 100, (n,))


@add
def UNet2DModel():
    model = diffusers.UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    )
    return model, *((x, times(len(x))) for x in images(16))


@add
def UNet2DConditionModel():
    model = diffusers.UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=4,
    )
    return model, *(
        (torch.randn(n, 4, 16, 16), times(n), torch.randn(n, 3 + n, 12)) for n in NUMBERS
    )


@add
def UNet1DModel():
    model = diffusers.UNet1DModel(
        sample_size=16,
        in_channels=2,
        out_channels=2,
        extra_in_channels=64,
        block_out_channels=(32, 32, 64),
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D", "DownBlock1D"),
        up_block_types=("UpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"),
    )
    return model, *((torch.randn(n, 2, 32), times(n)) for n in NUMBERS)


@add
def UNet3DConditionModel():
    model = diffusers.UNet3DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=12,
        attention_head_dim=4,
    )
    return model, *((torch.randn(n, 4, 3, 8, 8), times(n), torch.randn(n, 5, 12)) for n in NUMBERS)


@add
def AutoencoderKL():
    model = diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
    )
    return model, *images(16)


@add
def AutoencoderTiny():
    model = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 2),
        num_decoder_blocks=(2, 1),
    )
    return model, *images(16)


@add
def VQModel():
    model = diffusers.VQModel(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        num_vq_embeddings=16,
        norm_num_groups=4,
    )
    return model, *images(16)


@add
def AutoencoderDC():
    model = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
    )
    return model, *images(16)


@add
def DiTTransformer2DModel():
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        norm_num_groups=4,
        num_embeds_ada_norm=100,
    )
    examples = [
        {
            "hidden_states": torch.randn(n, 4, 8, 8),
            "timestep": times(n),
            "class_labels": torch.randint(0, 9, (n,)),
        }
        for n in NUMBERS
    ]
    return model, *examples


@add
def PixArtTransformer2DModel():
    model = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        cross_attention_dim=16,
        caption_channels=12,
        use_additional_conditions=False,
    )
    examples = [
        {
            "hidden_states": torch.randn(n, 4, 8, 8),
            "timestep": times(n),
            "encoder_hidden_states": torch.randn(n, 5, 12),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        }
        for n in NUMBERS
    ]
    return model, *examples


@add
def SD3Transformer2DModel():
    model = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=10,
        out_channels=4,
    )
    examples = [
        {
            "hidden_states": torch.randn(n, 4, 8, 8),
            "timestep": times(n),
            "encoder_hidden_states": torch.randn(n, 5, 12),
            "pooled_projections": torch.randn(n, 10),
        }
        for n in NUMBERS
    ]
    return model, *examples


@add
def FluxTransformer2DModel():
    model = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        axes_dims_rope=(4, 4, 8),
    )
    examples = [
        {
            "hidden_states": torch.randn(n, 16, 4),
            "encoder_hidden_states": torch.randn(n, 5, 12),
            "pooled_projections": torch.randn(n, 10),
            "timestep": torch.rand(n),
            "img_ids": torch.randn(16, 3),
            "txt_ids": torch.zeros(5, 3),
        }
        for n in NUMBERS
    ]
    return model, *examples


@add
def SanaTransformer2DModel():
    model = diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=12,
        sample_size=8,
        patch_size=1,
    )
    examples = [
        {
            "hidden_states": torch.randn(n, 4, 8, 8),
            "timestep": times(n),
            "encoder_hidden_states": torch.randn(n, 5, 12),
        }
        for n in NUMBERS
    ]
    return model, *examples


@add
def ControlNetModel():
    model = diffusers.ControlNetModel(
        in_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=4,
        conditioning_embedding_out_channels=(8, 8),
    )
    examples = [
        (torch.randn(n, 4, 16, 16), times(n), torch.randn(n, 5, 12), torch.randn(n, 3, 32, 32))
        for n in NUMBERS
    ]
    return model, *examples


@add
def StableCascadeUNet():
    model = diffusers.models.StableCascadeUNet(
        in_channels=4,
        out_channels=4,
        conditioning_dim=16,
        block_out_channels=(8, 16),
        num_attention_heads=(0, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        down_blocks_repeat_mappers=(1, 1),
        up_blocks_repeat_mappers=(1, 1),
        block_types_per_layer=(
            ("SDCascadeResBlock", "SDCascadeTimestepBlock"),
            ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),
        ),
        clip_text_in_channels=12,
        clip_text_pooled_in_channels=10,
        clip_image_in_channels=10,
        clip_seq=2,
        kernel_size=3,
        self_attn=(False, True),
        timestep_ratio_embedding_dim=8,
    )
    examples = [
        {
            "sample": torch.randn(n, 4, 8, 8),
            "timestep_ratio": torch.rand(n),
            "clip_text_pooled": torch.randn(n, 1, 10),
            "clip_text": torch.randn(n, 5, 12),
            "clip_img": torch.randn(n, 1, 10),
        }
        for n in NUMBERS
    ]
    return model, *examples
