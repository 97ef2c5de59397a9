"""Tiny networks of transformers with random weights, and inputs for them."""

import pytest
import torch

import sentei

transformers = pytest.importorskip("transformers", reason="pip install 'sentei[transformers]'")

WORDS = {"input_ids": torch.arange(16).view(2, 8)}
PICTURES = {"pixel_values": torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))}

SIZES = {"hidden_size": 24, "intermediate_size": 30, "num_attention_heads": 6}
SIZES |= {"num_hidden_layers": 2}
GROUPED = {**SIZES, "vocab_size": 20, "num_key_value_heads": 3, "use_cache": False}

# Name: class, configuration, the Auto class that loads it, inputs.
NETWORKS = {
    "bert": (
        *("BertForSequenceClassification", "BertConfig", "AutoModelForSequenceClassification"),
        {**SIZES, "vocab_size": 20, "max_position_embeddings": 16},
        WORDS,
    ),
    "gpt2": (
        *("GPT2LMHeadModel", "GPT2Config", "AutoModelForCausalLM"),
        {"n_layer": 2, "n_embd": 24, "n_head": 6, "n_positions": 8, "vocab_size": 20}
        | {"use_cache": False, "bos_token_id": 0, "eos_token_id": 0},
        WORDS,
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", "AutoModelForCausalLM", GROUPED, WORDS),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", "AutoModelForCausalLM", GROUPED, WORDS),
    "qwen3": (
        *("Qwen3ForCausalLM", "Qwen3Config", "AutoModelForCausalLM"),
        {**GROUPED, "head_dim": 4},
        WORDS,
    ),
    "gemma": (
        *("GemmaForCausalLM", "GemmaConfig", "AutoModelForCausalLM"),
        {**GROUPED, "head_dim": 4},
        WORDS,
    ),
    "phi3": (
        *("Phi3ForCausalLM", "Phi3Config", "AutoModelForCausalLM"),
        {**GROUPED, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0},
        WORDS,
    ),
    "t5": (
        *("T5ForConditionalGeneration", "T5Config", "AutoModelForSeq2SeqLM"),
        {"d_model": 24, "d_ff": 30, "d_kv": 4, "num_layers": 2, "num_heads": 6, "vocab_size": 20}
        | {"use_cache": False},
        {**WORDS, "decoder_input_ids": WORDS["input_ids"]},
    ),
    "vit": (
        *("ViTForImageClassification", "ViTConfig", "AutoModelForImageClassification"),
        {**SIZES, "image_size": 8, "patch_size": 4},
        PICTURES,
    ),
}


def build(name, **more):
    """Return a network in evaluation mode, and inputs; the same ones every time."""
    kind, config, _, settings, example = NETWORKS[name]
    torch.manual_seed(0)
    made = getattr(transformers, kind)(getattr(transformers, config)(**{**settings, **more}))
    return made.eval(), example


def inner_units(model, example, **call):
    """Return the feed-forward units and the heads: what lies inside of blocks."""
    groups = sentei.find_units(model, example, **call)
    return [group for group in groups if group.kind in ("neuron", "head")]


def auto(name):
    """Return the class by which users of transformers load such a network."""
    return getattr(transformers, NETWORKS[name][2])


def logits(model, example):
    with torch.no_grad():
        return model(**example).logits
