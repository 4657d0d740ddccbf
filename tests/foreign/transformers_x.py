"""x-transformers: small transformers with its many options."""

import torch
import x_transformers as xt

from . import images, register, sequences, tokens

BUILDERS = {}
add = register(BUILDERS)
SIZES = {"dim": 32, "depth": 2, "heads": 4, "attn_dim_head": 8}


def decoder(**options):
    "A language model."
    layers = xt.Decoder(**SIZES, **options)
    return xt.TransformerWrapper(num_tokens=50, max_seq_len=16, attn_layers=layers), *tokens()


for name, options in {
    "decoder": {},
    "rotary": {"rotary_pos_emb": True},
    "alibi": {"alibi_pos_bias": True},
    "relative_bias": {"rel_pos_bias": True},
    "dynamic_bias": {"dynamic_pos_bias": True},
    "swiglu": {"ff_glu": True, "ff_swish": True},
    "rms_norm": {"use_rmsnorm": True},
    "scale_norm": {"use_scalenorm": True},
    "multi_query": {"attn_one_kv_head": True},
    "grouped_query": {"attn_kv_heads": 2},
    "query_key_norm": {"attn_qk_norm": True},
    "memory_key_values": {"attn_num_mem_kv": 3},
    "talking_heads": {"attn_pre_talking_heads": True},
    "gated_values": {"attn_gate_values": True},
    "shifted_tokens": {"shift_tokens": 1},
    "sandwich_norm": {"sandwich_norm": True},
    "residual_gate": {"gate_residual": True},
    "macaron": {"macaron": True},
    "flash": {"attn_flash": True},
    "relu_squared": {"ff_relu_squared": True},
    "no_bias": {"ff_no_bias": True},
    "sparse_top_k": {"attn_sparse_topk": 3},
    "laser": {"attn_laser": True},
    "hyper_connections": {"num_residual_streams": 2},
}.items():
    BUILDERS[name] = lambda options=options: decoder(**options)


@add
def encoder():
    layers = xt.Encoder(**SIZES)
    return xt.TransformerWrapper(num_tokens=50, max_seq_len=16, attn_layers=layers), *tokens()


@add
def memory_tokens_and_tied():
    layers = xt.Decoder(**SIZES)
    model = xt.TransformerWrapper(
        num_tokens=50, max_seq_len=16, num_memory_tokens=3, tie_embedding=True, attn_layers=layers
    )
    return model, *tokens()


@add
def continuous():
    model = xt.ContinuousTransformerWrapper(
        dim_in=6, dim_out=5, max_seq_len=16, attn_layers=xt.Encoder(**SIZES)
    )
    return model, *sequences()


@add
def image_transformer():
    model = xt.ViTransformerWrapper(
        image_size=16, patch_size=4, num_classes=5, attn_layers=xt.Encoder(**SIZES)
    )
    return model, *images(16)


@add
def encoder_and_decoder():
    model = xt.XTransformer(
        dim=32,
        enc_num_tokens=50,
        enc_depth=1,
        enc_heads=4,
        enc_max_seq_len=16,
        dec_num_tokens=50,
        dec_depth=1,
        dec_heads=4,
        dec_max_seq_len=16,
        enc_attn_dim_head=8,
        dec_attn_dim_head=8,
    )
    return model, *zip(tokens(), tokens(), strict=True)


@add
def autoregressive_loss():
    model, *inputs = decoder()
    return xt.AutoregressiveWrapper(model), *inputs


@add
def cross_attender():
    layers = xt.CrossAttender(**SIZES)
    examples = [(torch.randn(n, 5, 32),) for n in (2, 3)]
    examples = [{"x": torch.randn(n, 5, 32), "context": torch.randn(n, 7, 32)} for n in (2, 3)]
    return layers, *examples


@add
def embedding_output():
    layers = xt.Encoder(**SIZES)
    model = xt.TransformerWrapper(
        num_tokens=50, max_seq_len=16, attn_layers=layers, use_cls_token=True, logits_dim=7
    )
    return model, *tokens()
