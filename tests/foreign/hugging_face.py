"""Hugging Face transformers: small random networks with otherwise default settings."""

from functools import partial

import torch
import transformers

from . import images, tokens

SMALL = {  # used where a configuration has such a setting
    "vocab_size": 50,
    "hidden_size": 32,
    "d_model": 32,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "num_attention_heads": 4,
    "num_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "embedding_size": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_decoder_layers": 2,
    "d_ff": 48,
    "d_kv": 8,
    "image_size": 32,
    "patch_size": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "projection_dim": 24,
    "state_size": 4,
}


def network(kind, **settings):
    "A small network of a class, with these settings."
    model_class = getattr(transformers, kind)
    config_class = model_class.config_class
    default = config_class()
    small = {
        key: value
        for key, value in SMALL.items()
        if isinstance(getattr(default, key, ""), (int, type(None)))
    }
    if any(
        isinstance(getattr(default, key, 0), (list, tuple)) for key in ("hidden_sizes", "depths")
    ):
        small.pop("hidden_size", None)
        small.pop("num_hidden_layers", None)
    small = {key: value for key, value in (small | settings).items() if value is not None}
    return model_class(config_class(**small))


def text(kind, **settings):
    "A network on words."
    example, other = tokens()
    return network(kind, **settings), {"input_ids": example}, {"input_ids": other}


def masked_text(kind, **settings):
    "A network on words, of which some are padding."
    inputs = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in tokens()]
    for one in inputs:
        one["attention_mask"][0, -2:] = 0
    return network(kind, **settings), *inputs


def translation(kind, **settings):
    "A network from words to words."
    source, target = tokens(), tokens(length=5, other_length=6)
    inputs = [
        {"input_ids": ids, "decoder_input_ids": own}
        for ids, own in zip(source, target, strict=True)
    ]
    return network(kind, **settings), *inputs


def image(kind, size=32, **settings):
    "A network on images."
    return network(kind, **settings), *({"pixel_values": x} for x in images(size))


def sound(kind, length=800, **settings):
    "A network on waveforms."
    inputs = [{"input_values": torch.randn(2, length)}, {"input_values": torch.randn(3, length)}]
    return network(kind, **settings), *inputs


def video(kind, frames=4, size=32, **settings):
    "A network on videos."
    inputs = [{"pixel_values": torch.randn(n, frames, 3, size, size)} for n in (2, 3)]
    return network(kind, **settings), *inputs


TEXT = {  # kind of network: its settings
    "AlbertForMaskedLM": {},
    "BertForMaskedLM": {},
    "BertForQuestionAnswering": {},
    "RobertaForSequenceClassification": {},
    "DistilBertForMaskedLM": {"hidden_dim": 48},
    "ElectraForPreTraining": {},
    "DebertaForMaskedLM": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "DebertaV2ForSequenceClassification": {
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["c2p", "p2c"],
    },
    "ConvBertForMaskedLM": {"conv_kernel_size": 3},
    "MobileBertForMaskedLM": {
        "intra_bottleneck_size": 16,
        "true_hidden_size": None,
        "embedding_size": 16,
    },
    "SqueezeBertForMaskedLM": {"embedding_size": 32},
    "FNetForMaskedLM": {},
    "NystromformerForMaskedLM": {},
    "XLNetLMHeadModel": {"d_inner": 48, "max_position_embeddings": None},
    "XLMWithLMHeadModel": {"emb_dim": 32, "n_layers": 2, "n_heads": 4},
    "MPNetForMaskedLM": {},
    "RoFormerForMaskedLM": {},
    "FunnelForMaskedLM": {
        "block_sizes": [1, 1],
        "d_inner": 48,
        "d_head": 8,
        "n_head": 4,
        "num_hidden_layers": None,
    },
    "ModernBertForMaskedLM": {"global_attn_every_n_layers": 2},
    "EsmForMaskedLM": {"position_embedding_type": "rotary", "mask_token_id": 3},
    "IBertForMaskedLM": {},
    "CanineForSequenceClassification": {
        "num_hash_buckets": 64,
        "local_transformer_stride": 4,
        "downsampling_rate": 2,
    },
    "RemBertForMaskedLM": {"input_embedding_size": 16, "output_embedding_size": 24},
    "BigBirdForMaskedLM": {"attention_type": "original_full"},
    "MegatronBertForMaskedLM": {},
    "LayoutLMForTokenClassification": {},
    "ReformerModelWithLMHead": {
        "attn_layers": ["local", "local"],
        "is_decoder": True,
        "axial_pos_embds": False,
        "local_attn_chunk_length": 4,
        "attention_head_size": 8,
        "feed_forward_size": 48,
    },
    "GPT2LMHeadModel": {"n_positions": 64},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "GPTJForCausalLM": {"rotary_dim": 4},
    "GPTNeoXForCausalLM": {},
    "GPTBigCodeForCausalLM": {},
    "OpenAIGPTLMHeadModel": {},
    "CTRLLMHeadModel": {"dff": 48},
    "CodeGenForCausalLM": {"rotary_dim": 4},
    "OPTForCausalLM": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "BloomForCausalLM": {},
    "FalconForCausalLM": {"head_dim": None},
    "MptForCausalLM": {"n_heads": 4, "n_layers": 2},
    "LlamaForCausalLM": {},
    "MistralForCausalLM": {"sliding_window": 4},
    "MixtralForCausalLM": {},
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {},
    "Qwen3MoeForCausalLM": {},
    "Qwen2MoeForCausalLM": {"shared_expert_intermediate_size": 24},
    "GemmaForCausalLM": {},
    "Gemma2ForCausalLM": {},
    "Gemma3ForCausalLM": {},
    "PhiForCausalLM": {},
    "Phi3ForCausalLM": {},
    "StableLmForCausalLM": {},
    "Starcoder2ForCausalLM": {},
    "CohereForCausalLM": {},
    "OlmoForCausalLM": {},
    "Olmo2ForCausalLM": {},
    "OlmoeForCausalLM": {},
    "GraniteForCausalLM": {},
    "SmolLM3ForCausalLM": {},
    "GlmForCausalLM": {},
    "PersimmonForCausalLM": {},
    "DeepseekV3ForCausalLM": {
        "q_lora_rank": 16,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "head_dim": None,
        "num_key_value_heads": 4,
    },
    "GptOssForCausalLM": {"layer_types": ["sliding_attention", "full_attention"]},
    "MambaForCausalLM": {"time_step_rank": 4},
    "Mamba2ForCausalLM": {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 4},
    "RwkvForCausalLM": {"attention_hidden_size": 32, "context_length": 16},
    "RecurrentGemmaForCausalLM": {"lru_width": 32, "num_hidden_layers": 3},
    "XGLMForCausalLM": {"attention_heads": 4, "ffn_dim": 48},
    "BioGptForCausalLM": {},
}
MASKED = {
    "BertForSequenceClassification": {},
    "GPT2ForSequenceClassification": {"n_positions": 64},
    "LongformerForSequenceClassification": {"attention_window": 4},
    "LlamaForSequenceClassification": {},
}
TRANSLATION = {
    "T5ForConditionalGeneration": {},
    "MT5ForConditionalGeneration": {},
    "UMT5ForConditionalGeneration": {},
    "LongT5ForConditionalGeneration": {},
    "SwitchTransformersForConditionalGeneration": {
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
    },
    "BartForConditionalGeneration": {},
    "MBartForConditionalGeneration": {},
    "MarianMTModel": {"decoder_vocab_size": 50},
    "PegasusForConditionalGeneration": {},
    "BlenderbotForConditionalGeneration": {},
    "M2M100ForConditionalGeneration": {},
    "LEDForConditionalGeneration": {
        "attention_window": 4,
        "max_encoder_position_embeddings": 64,
        "max_decoder_position_embeddings": 64,
    },
    "ProphetNetForConditionalGeneration": {
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "num_hidden_layers": None,
        "num_encoder_attention_heads": 4,
        "num_decoder_attention_heads": 4,
    },
}
STAGES = {"hidden_sizes": [16, 32], "depths": [1, 2]}
IMAGE = {
    "ViTForImageClassification": {},
    "DeiTForImageClassification": {},
    "BeitForImageClassification": {},
    "Dinov2ForImageClassification": {},
    "DINOv3ViTModel": {},
    "Data2VecVisionForImageClassification": {},
    "ViTMSNModel": {},
    "ViTMAEForPreTraining": {
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 4,
        "decoder_intermediate_size": 24,
    },
    "SwinForImageClassification": {
        "embed_dim": 8,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": 2,
        "patch_size": 4,
    },
    "Swinv2ForImageClassification": {
        "embed_dim": 8,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": 2,
        "patch_size": 4,
    },
    "ConvNextForImageClassification": {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "patch_size": 4,
    },
    "ConvNextV2ForImageClassification": {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "patch_size": 4,
    },
    "ResNetForImageClassification": {"embedding_size": 16, **STAGES},
    "RegNetForImageClassification": {"embedding_size": 16, "groups_width": 8, **STAGES},
    "MobileNetV2ForImageClassification": {"depth_multiplier": 0.35},
    "PoolFormerForImageClassification": {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "patch_size": None,
    },
    "SegformerForSemanticSegmentation": {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 4],
        "decoder_hidden_size": 16,
    },
    "PvtForImageClassification": {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 4],
        "image_size": 64,
        "patch_sizes": [4, 2, 2, 2],
    },
    "CvtForImageClassification": {
        "embed_dim": [8, 16, 32],
        "num_heads": [1, 2, 4],
        "depth": [1, 2, 3],
        "cls_token": [False, False, True],
    },
    "LevitForImageClassification": {"patch_size": 16},
    "EfficientNetForImageClassification": {
        "hidden_dim": 640,
        "width_coefficient": 0.5,
        "depth_coefficient": 0.3,
        "image_size": 64,
    },
    "GLPNForDepthEstimation": {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 4],
        "decoder_hidden_size": 16,
    },
    "DPTForDepthEstimation": {
        "num_hidden_layers": 4,
        "backbone_out_indices": [0, 1, 2, 3],
        "fusion_hidden_size": 16,
        "neck_hidden_sizes": [8, 16, 24, 32],
    },
    "YolosForObjectDetection": {"image_size": [32, 32], "num_detection_tokens": 5},
    "SiglipVisionModel": {},
    "CLIPVisionModelWithProjection": {},
    "HieraForImageClassification": {
        "embed_dim": 8,
        "image_size": [64, 64],
        "patch_size": [7, 7],
        "num_heads": [1, 2, 4, 8],
        "depths": [1, 1, 2, 1],
        "masked_unit_size": [8, 8],
        "query_stride": [2, 2],
    },
    "IJepaForImageClassification": {},
    "FocalNetForImageClassification": {"embed_dim": 8, "depths": [1, 1, 1, 1], "patch_size": 4},
}
LARGER = {
    "MobileNetV2ForImageClassification": 64,
    "EfficientNetForImageClassification": 64,
    "LevitForImageClassification": 224,
    "SegformerForSemanticSegmentation": 64,
    "PvtForImageClassification": 64,
    "GLPNForDepthEstimation": 64,
    "HieraForImageClassification": 64,
}
CONVOLUTIONS = {
    "conv_dim": [16, 24],
    "conv_stride": [5, 4],
    "conv_kernel": [10, 4],
    "num_feat_extract_layers": 2,
}
SOUND = {
    "Wav2Vec2ForCTC": CONVOLUTIONS,
    "HubertForCTC": CONVOLUTIONS,
    "WavLMForCTC": {**CONVOLUTIONS, "num_ctc_classes": 20},
    "Data2VecAudioForCTC": {
        **CONVOLUTIONS,
        "conv_pos_kernel_size": 5,
        "num_conv_pos_embeddings": 2,
    },
    "UniSpeechSatForCTC": CONVOLUTIONS,
    "Wav2Vec2ConformerForCTC": CONVOLUTIONS,
}
VIDEO = {
    "VideoMAEForVideoClassification": {"num_frames": 4},
    "TimesformerForVideoClassification": {"num_frames": 4},
    "VivitForVideoClassification": {"num_frames": 4, "tubelet_size": [2, 8, 8]},
}

BUILDERS = {}
for build, kinds in (
    (text, TEXT),
    (masked_text, MASKED),
    (translation, TRANSLATION),
    (sound, SOUND),
    (video, VIDEO),
):
    BUILDERS |= {kind: partial(build, kind, **settings) for kind, settings in kinds.items()}
for kind, settings in IMAGE.items():
    side = {"image_size": 224} if LARGER.get(kind) == 224 else {}
    BUILDERS[kind] = partial(image, kind, LARGER.get(kind, 32), **side, **settings)


def add(function):
    "A builder of its own."
    BUILDERS[function.__name__] = function
    return function


VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
WORDS = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def two_towers(kind, **settings):
    "A network on texts and images."
    model_class = getattr(transformers, kind)
    config = model_class.config_class(
        text_config=WORDS | settings, vision_config=VISION, projection_dim=24
    )
    inputs = [
        {"input_ids": ids, "pixel_values": x} for ids, x in zip(tokens(), images(), strict=True)
    ]
    return model_class(config), *inputs


for kind in (
    "CLIPModel",
    "SiglipModel",
    "AltCLIPModel",
    "ChineseCLIPModel",
    "BlipModel",
    "GroupViTModel",
    "CLIPSegModel",
):
    BUILDERS[kind] = partial(two_towers, kind)


@add
def WhisperForConditionalGeneration():
    model = network(
        "WhisperForConditionalGeneration",
        max_source_positions=20,
        max_target_positions=32,
        num_mel_bins=8,
    )
    inputs = [
        {"input_features": torch.randn(len(ids), 8, 40), "decoder_input_ids": ids}
        for ids in tokens()
    ]
    return model, *inputs


@add
def Speech2TextForConditionalGeneration():
    model = network(
        "Speech2TextForConditionalGeneration",
        max_source_positions=64,
        max_target_positions=32,
        input_feat_per_channel=8,
        conv_channels=16,
    )
    inputs = [
        {"input_features": torch.randn(len(ids), 32, 8), "decoder_input_ids": ids}
        for ids in tokens()
    ]
    return model, *inputs


@add
def ASTForAudioClassification():
    model = network(
        "ASTForAudioClassification",
        num_mel_bins=16,
        max_length=32,
        frequency_stride=4,
        time_stride=4,
    )
    return model, *({"input_values": torch.randn(n, 32, 16)} for n in (2, 3))


@add
def EncodecModel():
    model = network(
        "EncodecModel",
        num_filters=4,
        hidden_size=16,
        codebook_size=16,
        codebook_dim=16,
        num_lstm_layers=1,
        target_bandwidths=[24.0],
        upsampling_ratios=[4, 2],
    )
    return model, *({"input_values": torch.randn(n, 1, 640)} for n in (2, 3))


@add
def ViltForQuestionAnswering():
    model = network("ViltForQuestionAnswering")
    inputs = [
        {"input_ids": ids, "pixel_values": x}
        for ids, x in zip(tokens(length=7, other_length=7), images(), strict=True)
    ]
    return model, *inputs


@add
def VisionEncoderDecoderModel():
    settings = transformers.ViTConfig(**VISION)
    words = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(settings, words)
    inputs = [
        {"pixel_values": x, "decoder_input_ids": ids}
        for x, ids in zip(images(), tokens(), strict=True)
    ]
    return transformers.VisionEncoderDecoderModel(config), *inputs


@add
def EncoderDecoderModel():
    words = transformers.BertConfig(**WORDS)
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(words, words)
    _, *inputs = translation("BartForConditionalGeneration")
    return transformers.EncoderDecoderModel(config), *inputs


@add
def DetrForObjectDetection():
    backbone = transformers.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        out_features=["stage4"],
    )
    config = transformers.DetrConfig(
        backbone_config=backbone,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        num_queries=5,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
    )
    return transformers.DetrForObjectDetection(config), *({"pixel_values": x} for x in images(64))


@add
def LlavaForConditionalGeneration():
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**WORDS),
        image_token_index=49,
        vision_config=transformers.CLIPVisionConfig(**VISION),
        vision_feature_layer=-1,
    )
    inputs = []
    for x in images():
        ids = torch.randint(1, 49, (len(x), 22))
        ids[:, 2:18] = 49
        inputs.append({"input_ids": ids, "pixel_values": x})
    return transformers.LlavaForConditionalGeneration(config), *inputs


@add
def PerceiverForImageClassificationLearned():
    model = network(
        "PerceiverForImageClassificationLearned",
        num_latents=6,
        d_latents=32,
        num_self_attends_per_block=2,
        num_self_attention_heads=4,
        num_cross_attention_heads=4,
        image_size=16,
    )
    return model, *({"inputs": x} for x in images(16))


@add
def TimeSeriesTransformerForPrediction():
    model = network(
        "TimeSeriesTransformerForPrediction",
        prediction_length=4,
        context_length=6,
        lags_sequence=[1, 2],
        num_time_features=2,
        scaling="mean",
    )
    inputs = []
    for n in (2, 3):
        past = {
            "past_values": torch.rand(n, 8),
            "past_time_features": torch.randn(n, 8, 2),
            "past_observed_mask": torch.ones(n, 8),
            "future_values": torch.rand(n, 4),
            "future_time_features": torch.randn(n, 4, 2),
        }
        inputs.append(past)
    return model, *inputs


@add
def PatchTSTForPrediction():
    model = network(
        "PatchTSTForPrediction",
        num_input_channels=3,
        context_length=32,
        patch_length=8,
        patch_stride=8,
        prediction_length=4,
        ffn_dim=48,
    )
    return model, *({"past_values": torch.randn(n, 32, 3)} for n in (2, 3))


@add
def DecisionTransformerModel():
    model = network(
        "DecisionTransformerModel", state_dim=5, act_dim=3, max_ep_len=20, n_positions=64
    )
    inputs = []
    for n, length in ((2, 4), (3, 6)):
        inputs.append(
            {
                "states": torch.randn(n, length, 5),
                "actions": torch.randn(n, length, 3),
                "rewards": torch.randn(n, length, 1),
                "returns_to_go": torch.randn(n, length, 1),
                "timesteps": torch.arange(length).repeat(n, 1),
                "attention_mask": torch.ones(n, length),
            }
        )
    return model, *inputs


@add
def SamModel():
    config = transformers.SamConfig(
        vision_config=transformers.SamVisionConfig(
            hidden_size=32,
            output_channels=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=64,
            patch_size=8,
            mlp_dim=48,
            window_size=4,
            global_attn_indexes=[1],
            num_pos_feats=8,
        ),
        prompt_encoder_config=transformers.SamPromptEncoderConfig(
            hidden_size=16, image_size=64, patch_size=8, mask_input_channels=8
        ),
        mask_decoder_config=transformers.SamMaskDecoderConfig(
            hidden_size=16, mlp_dim=24, num_attention_heads=4, iou_head_hidden_dim=16
        ),
    )
    inputs = [
        {"pixel_values": x, "input_points": 60 * torch.rand(len(x), 1, 2, 2)} for x in images(64)
    ]
    return transformers.SamModel(config), *inputs
