"""torchaudio: networks for speech and music, small."""

import torch
from torchaudio import models

from . import register

BUILDERS = {}
add = register(BUILDERS)
NUMBERS = (2, 3)


@add
def Wav2Letter():
    return models.Wav2Letter(num_classes=9, input_type="mfcc", num_features=13), *(
        torch.randn(n, 13, 40) for n in NUMBERS
    )


@add
def DeepSpeech():
    return models.DeepSpeech(13, n_hidden=24, n_class=9), *(
        torch.randn(n, 1, 10, 13) for n in NUMBERS
    )


@add
def ConvTasNet():
    model = models.ConvTasNet(
        num_sources=2,
        enc_kernel_size=16,
        enc_num_feats=12,
        msk_num_feats=8,
        msk_num_hidden_feats=10,
        msk_num_layers=2,
        msk_num_stacks=2,
    )
    return model, *(torch.randn(n, 1, 320) for n in NUMBERS)


@add
def Conformer():
    model = models.Conformer(
        input_dim=16, num_heads=4, ffn_dim=24, num_layers=2, depthwise_conv_kernel_size=3
    )
    return (
        model,
        (torch.randn(2, 9, 16), torch.tensor([9, 6])),
        (torch.randn(3, 7, 16), torch.tensor([7, 5, 4])),
    )


@add
def Emformer():
    model = models.Emformer(16, 4, 24, 2, segment_length=4, right_context_length=1)
    return (
        model,
        (torch.randn(2, 9, 16), torch.tensor([8, 6])),
        (torch.randn(3, 13, 16), torch.tensor([12, 5, 4])),
    )


@add
def Tacotron2():
    model = models.Tacotron2(
        n_mels=8,
        n_symbol=20,
        symbol_embedding_dim=12,
        encoder_embedding_dim=12,
        encoder_n_convolution=2,
        decoder_rnn_dim=14,
        decoder_max_step=10,
        attention_rnn_dim=14,
        attention_hidden_dim=10,
        attention_location_n_filter=6,
        attention_location_kernel_size=5,
        prenet_dim=8,
        postnet_n_convolution=2,
        postnet_kernel_size=3,
        postnet_embedding_dim=12,
    )
    examples = [
        (
            torch.randint(0, 20, (n, 6)),
            torch.tensor([6, 5, 4][:n]),
            torch.randn(n, 8, 5),
            torch.tensor([5, 4, 3][:n]),
        )
        for n in NUMBERS
    ]
    return model, *examples


@add
def WaveRNN():
    model = models.WaveRNN(
        [2, 2, 2],
        n_classes=16,
        hop_length=8,
        n_res_block=2,
        n_rnn=12,
        n_fc=14,
        kernel_size=3,
        n_freq=10,
        n_hidden=8,
        n_output=8,
    )
    return model, *((torch.randn(n, 1, 32), torch.randn(n, 1, 10, 6)) for n in NUMBERS)


def wav2vec2(kind=models.wav2vec2_model, **options):
    "A small wav2vec 2.0."
    return kind(
        extractor_mode="group_norm",
        extractor_conv_layer_config=[(16, 10, 5), (16, 3, 2)],
        extractor_conv_bias=False,
        encoder_embed_dim=24,
        encoder_projection_dropout=0.1,
        encoder_pos_conv_kernel=8,
        encoder_pos_conv_groups=4,
        encoder_num_layers=2,
        encoder_num_heads=4,
        encoder_attention_dropout=0.1,
        encoder_ff_interm_features=32,
        encoder_ff_interm_dropout=0.1,
        encoder_dropout=0.1,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.1,
        aux_num_out=9,
        **options,
    )


@add
def Wav2Vec2Model():
    return wav2vec2(), *(torch.randn(n, 400) for n in NUMBERS)


@add
def WavLMModel():
    options = dict(
        extractor_mode="group_norm",
        extractor_conv_layer_config=[(16, 10, 5), (16, 3, 2)],
        extractor_conv_bias=False,
        encoder_embed_dim=24,
        encoder_projection_dropout=0.1,
        encoder_pos_conv_kernel=8,
        encoder_pos_conv_groups=4,
        encoder_num_layers=2,
        encoder_num_heads=4,
        encoder_num_buckets=16,
        encoder_max_distance=20,
        encoder_attention_dropout=0.1,
        encoder_ff_interm_features=32,
        encoder_ff_interm_dropout=0.1,
        encoder_dropout=0.1,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.1,
        aux_num_out=9,
    )
    return models.wavlm_model(**options), *(torch.randn(n, 400) for n in NUMBERS)


@add
def HDemucs():
    model = models.HDemucs(
        ["a", "b"], audio_channels=1, channels=4, nfft=256, depth=3, dconv_lstm=9, dconv_attn=9
    )
    return model, *(torch.randn(n, 1, 2048) for n in NUMBERS)


@add
def RNNT():
    model = models.emformer_rnnt_model(
        input_dim=8,
        encoding_dim=12,
        num_symbols=10,
        segment_length=8,
        right_context_length=4,
        time_reduction_input_dim=6,
        time_reduction_stride=4,
        transformer_num_heads=4,
        transformer_ffn_dim=24,
        transformer_num_layers=2,
        transformer_dropout=0.1,
        transformer_activation="gelu",
        transformer_left_context_length=4,
        transformer_max_memory_size=0,
        transformer_weight_init_scale_strategy="depthwise",
        transformer_tanh_on_mem=True,
        symbol_embedding_dim=10,
        num_lstm_layers=1,
        lstm_layer_norm=True,
        lstm_layer_norm_epsilon=1e-3,
        lstm_dropout=0.1,
    )
    examples = [
        (
            torch.randn(n, 36, 8),
            torch.tensor([32, 28, 24][:n]),
            torch.randint(0, 10, (n, 4)),
            torch.tensor([4, 3, 2][:n]),
        )
        for n in NUMBERS
    ]
    return model, *examples


@add
def SquimObjective():
    from torchaudio.models import squim_objective_model

    model = squim_objective_model(
        feat_dim=12,
        win_len=16,
        d_model=8,
        nhead=2,
        hidden_dim=10,
        num_blocks=1,
        rnn_type="LSTM",
        chunk_size=7,
    )
    return model, *(torch.randn(n, 400) for n in NUMBERS)
