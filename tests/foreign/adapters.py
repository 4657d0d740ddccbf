"""peft: adapters around small networks."""

import peft
import torch
import transformers
from torch import nn

from . import register, tokens, vectors
from .hugging_face import network

BUILDERS = {}
add = register(BUILDERS)


def mlp():
    return nn.Sequential(
        nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3)
    )


def adapted(kind, **options):
    "A small network whose linear maps have adapters."
    config = getattr(peft, kind)(target_modules=["0", "2"], **options)
    return peft.get_peft_model(mlp(), config), *vectors()


for kind, options in {
    "LoraConfig": {"r": 4},
    "LoHaConfig": {"r": 4},
    "LoKrConfig": {"r": 4},
    "OFTConfig": {"r": 2, "oft_block_size": 0},
    "BOFTConfig": {"boft_block_size": 2},
    "VeraConfig": {"r": 4},
    "HRAConfig": {"r": 4},
    "FourierFTConfig": {"n_frequency": 10},
    "IA3Config": {"feedforward_modules": []},
    "LNTuningConfig": None,
    "VBLoRAConfig": {"num_vectors": 10, "vector_length": 2, "topk": 2},
}.items():
    if options is not None:
        BUILDERS[kind] = lambda kind=kind, options=options: adapted(kind, **options)


@add
def LoraConfig_dora():
    return adapted("LoraConfig", r=4, use_dora=True)


@add
def AdaLoraConfig():
    return adapted("AdaLoraConfig", init_r=4, target_r=2, total_step=10)


def language_model(config):
    "A small GPT-2 with an adapter."
    model = network("GPT2LMHeadModel", n_positions=64)
    return peft.get_peft_model(model, config), *({"input_ids": ids} for ids in tokens())


@add
def lora_in_gpt2():
    return language_model(
        peft.LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    )


@add
def prompts_in_gpt2():
    return language_model(peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))


@add
def prefixes_in_gpt2():
    return language_model(peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))


@add
def prompt_encoder_in_gpt2():
    return language_model(
        peft.PromptEncoderConfig(
            num_virtual_tokens=3, encoder_hidden_size=12, task_type="CAUSAL_LM"
        )
    )


@add
def lora_in_bert_classifier():
    model = network("BertForSequenceClassification")
    config = peft.LoraConfig(r=4, target_modules=["query", "value"], task_type="SEQ_CLS")
    return peft.get_peft_model(model, config), *({"input_ids": ids} for ids in tokens())


@add
def lora_in_llama_merged():
    model = network("LlamaForCausalLM")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    merged = peft.get_peft_model(model, config).merge_and_unload()
    return merged, *({"input_ids": ids} for ids in tokens())


@add
def ia3_in_t5():
    model = network("T5ForConditionalGeneration")
    config = peft.IA3Config(
        task_type="SEQ_2_SEQ_LM", target_modules=["k", "v", "wo"], feedforward_modules=["wo"]
    )
    examples = [{"input_ids": ids, "decoder_input_ids": ids[:, :4]} for ids in tokens()]
    return peft.get_peft_model(model, config), *examples


@add
def lora_on_convolutions():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 16, 3),
    )
    config = peft.LoraConfig(r=4, target_modules=["0", "2"])
    return peft.get_peft_model(model, config), torch.randn(2, 3, 8, 8), torch.randn(3, 3, 8, 8)


@add
def lora_on_image_transformer():
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
    )
    model = transformers.ViTForImageClassification(config)
    own = peft.LoraConfig(r=4, target_modules="all-linear", modules_to_save=["classifier"])
    examples = [{"pixel_values": torch.randn(n, 3, 32, 32)} for n in (2, 3)]
    return peft.get_peft_model(model, own), *examples
