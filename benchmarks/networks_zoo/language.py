"""Networks of transformers from small configurations, and of peft."""

# Each library is in the environment of `make networks` alone.
# pyright: reportMissingImports=false, reportMissingModuleSource=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from networks_zoo.case import Case, images

# transformers: name: (configuration, class of the model, its settings, kind of example).

_ENCODER = {
    "vocab_size": 101,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 40,
}
_DECODER = {**_ENCODER, "use_cache": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_GROUPED = {**_DECODER, "num_key_value_heads": 2}
_PICTURES = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 10,
}
_EXPERTS = {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
_SPEECH = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 32,
    "intermediate_size": 96,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "apply_spec_augment": False,
}
_STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 24, 32, 48], "num_labels": 10}

TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "bert": ("BertConfig", "BertForSequenceClassification", _ENCODER, "tokens"),
    "bert-mlm": ("BertConfig", "BertForMaskedLM", _ENCODER, "tokens"),
    "roberta": ("RobertaConfig", "RobertaForTokenClassification", _ENCODER, "tokens"),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaModel", _ENCODER, "tokens"),
    "camembert": ("CamembertConfig", "CamembertModel", _ENCODER, "tokens"),
    "distilbert": (
        *("DistilBertConfig", "DistilBertForSequenceClassification"),
        {"vocab_size": 101, "dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 96},
        "tokens",
    ),
    "albert": (
        *("AlbertConfig", "AlbertForSequenceClassification"),
        {**_ENCODER, "embedding_size": 24},
        "tokens",
    ),
    "electra": (
        *("ElectraConfig", "ElectraForPreTraining"),
        {**_ENCODER, "embedding_size": 24},
        "tokens",
    ),
    "mpnet": ("MPNetConfig", "MPNetModel", _ENCODER, "tokens"),
    "squeezebert": (
        *("SqueezeBertConfig", "SqueezeBertModel"),
        {**_ENCODER, "embedding_size": 48},
        "tokens",
    ),
    "mobilebert": (
        *("MobileBertConfig", "MobileBertModel"),
        {**_ENCODER, "embedding_size": 24, "intra_bottleneck_size": 24, "true_hidden_size": 24},
        "tokens",
    ),
    "deberta": (
        *("DebertaConfig", "DebertaForSequenceClassification"),
        {**_ENCODER, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
        "tokens",
    ),
    "deberta-v2": (
        *("DebertaV2Config", "DebertaV2ForSequenceClassification"),
        {
            **_ENCODER,
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "share_att_key": True,
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
        },
        "tokens",
    ),
    "modernbert": (
        *("ModernBertConfig", "ModernBertForSequenceClassification"),
        {**_ENCODER, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2},
        "tokens",
    ),
    "funnel": (
        *("FunnelConfig", "FunnelBaseModel"),
        {
            "vocab_size": 101,
            "d_model": 48,
            "n_head": 4,
            "d_head": 12,
            "d_inner": 96,
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
        },
        "tokens",
    ),
    "fnet": ("FNetConfig", "FNetModel", _ENCODER, "tokens"),
    "gpt2": (
        *("GPT2Config", "GPT2LMHeadModel"),
        {
            "vocab_size": 101,
            "n_embd": 48,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 40,
            "use_cache": False,
        },
        "tokens",
    ),
    "gpt-neo": (
        *("GPTNeoConfig", "GPTNeoForCausalLM"),
        {
            "vocab_size": 101,
            "hidden_size": 48,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 40,
            "use_cache": False,
        },
        "tokens",
    ),
    "gpt-neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", _DECODER, "tokens"),
    "gptj": (
        *("GPTJConfig", "GPTJForCausalLM"),
        {
            "vocab_size": 101,
            "n_embd": 48,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 40,
            "rotary_dim": 6,
            "use_cache": False,
        },
        "tokens",
    ),
    "codegen": (
        *("CodeGenConfig", "CodeGenForCausalLM"),
        {
            "vocab_size": 101,
            "n_embd": 48,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 40,
            "n_ctx": 40,
            "rotary_dim": 6,
            "use_cache": False,
        },
        "tokens",
    ),
    "opt": (
        *("OPTConfig", "OPTForCausalLM"),
        {**_DECODER, "ffn_dim": 96, "word_embed_proj_dim": 48},
        "tokens",
    ),
    "bloom": (
        *("BloomConfig", "BloomForCausalLM"),
        {"vocab_size": 101, "hidden_size": 48, "n_layer": 2, "n_head": 4, "use_cache": False},
        "tokens",
    ),
    "falcon": ("FalconConfig", "FalconForCausalLM", {**_DECODER, "ffn_hidden_size": 96}, "tokens"),
    "mpt": (
        *("MptConfig", "MptForCausalLM"),
        {
            "d_model": 48,
            "n_layers": 2,
            "n_heads": 4,
            "vocab_size": 101,
            "max_seq_len": 40,
            "expansion_ratio": 2,
            "use_cache": False,
        },
        "tokens",
    ),
    "llama": ("LlamaConfig", "LlamaForCausalLM", _GROUPED, "tokens"),
    "mistral": ("MistralConfig", "MistralForCausalLM", _GROUPED, "tokens"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _GROUPED, "tokens"),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**_GROUPED, "head_dim": 12}, "tokens"),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", {**_GROUPED, "head_dim": 12}, "tokens"),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {**_GROUPED, "head_dim": 12}, "tokens"),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", {**_GROUPED, "head_dim": 12}, "tokens"),
    "phi": ("PhiConfig", "PhiForCausalLM", _DECODER, "tokens"),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", _GROUPED, "tokens"),
    "stablelm": (
        "StableLmConfig",
        "StableLmForCausalLM",
        {**_GROUPED, "partial_rotary_factor": 0.5},
        "tokens",
    ),
    "starcoder2": ("Starcoder2Config", "Starcoder2ForCausalLM", _GROUPED, "tokens"),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", _GROUPED, "tokens"),
    "granite": ("GraniteConfig", "GraniteForCausalLM", _GROUPED, "tokens"),
    "cohere": ("CohereConfig", "CohereForCausalLM", _GROUPED, "tokens"),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", _GROUPED, "tokens"),
    "gpt-bigcode": (
        *("GPTBigCodeConfig", "GPTBigCodeForCausalLM"),
        {
            "vocab_size": 101,
            "n_embd": 48,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 40,
            "use_cache": False,
        },
        "tokens",
    ),
    "mixtral": (
        *("MixtralConfig", "MixtralForCausalLM"),
        {**_GROUPED, "num_local_experts": 4},
        "tokens",
    ),
    "qwen3-moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**_EXPERTS, "head_dim": 12}, "tokens"),
    "mamba": (
        *("MambaConfig", "MambaForCausalLM"),
        {
            "vocab_size": 101,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "state_size": 8,
            "use_cache": False,
        },
        "tokens",
    ),
    "mamba2": (
        *("Mamba2Config", "Mamba2ForCausalLM"),
        {
            "vocab_size": 101,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "state_size": 8,
            "num_heads": 8,
            "head_dim": 12,
            "n_groups": 1,
            "chunk_size": 4,
            "use_cache": False,
        },
        "tokens",
    ),
    "rwkv": (
        *("RwkvConfig", "RwkvForCausalLM"),
        {
            "vocab_size": 101,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "attention_hidden_size": 48,
            "intermediate_size": 96,
            "context_length": 40,
            "use_cache": False,
        },
        "tokens",
    ),
    "t5": (
        *("T5Config", "T5ForConditionalGeneration"),
        {
            "vocab_size": 101,
            "d_model": 48,
            "d_kv": 12,
            "d_ff": 96,
            "num_layers": 2,
            "num_heads": 4,
            "use_cache": False,
            "decoder_start_token_id": 0,
        },
        "pair",
    ),
    "t5-gated-encoder": (
        *("T5Config", "T5EncoderModel"),
        {
            "vocab_size": 101,
            "d_model": 48,
            "d_kv": 12,
            "d_ff": 96,
            "num_layers": 2,
            "num_heads": 4,
            "feed_forward_proj": "gated-gelu",
            "use_cache": False,
        },
        "tokens",
    ),
    "bart": (
        *("BartConfig", "BartForConditionalGeneration"),
        {
            "vocab_size": 101,
            "d_model": 48,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 96,
            "decoder_ffn_dim": 96,
            "max_position_embeddings": 40,
            "use_cache": False,
        },
        "pair",
    ),
    "marian": (
        *("MarianConfig", "MarianMTModel"),
        {
            "vocab_size": 101,
            "d_model": 48,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 96,
            "decoder_ffn_dim": 96,
            "max_position_embeddings": 40,
            "use_cache": False,
            "pad_token_id": 0,
            "decoder_start_token_id": 0,
        },
        "pair",
    ),
    "whisper": (
        *("WhisperConfig", "WhisperForConditionalGeneration"),
        {
            "vocab_size": 101,
            "num_mel_bins": 16,
            "d_model": 48,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 96,
            "decoder_ffn_dim": 96,
            "max_source_positions": 20,
            "max_target_positions": 20,
            "use_cache": False,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
        "mel",
    ),
    "wav2vec2": ("Wav2Vec2Config", "Wav2Vec2ForCTC", _SPEECH, "wave"),
    "hubert": ("HubertConfig", "HubertForCTC", _SPEECH, "wave"),
    "audio-spectrogram": (
        *("ASTConfig", "ASTForAudioClassification"),
        {
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "patch_size": 8,
            "max_length": 32,
            "num_mel_bins": 16,
        },
        "spectrum",
    ),
    "clip": ("CLIPConfig", "CLIPModel", {}, "clip"),
    "siglip": ("SiglipConfig", "SiglipModel", {}, "clip"),
    "vit": ("ViTConfig", "ViTForImageClassification", _PICTURES, "pictures"),
    "deit": ("DeiTConfig", "DeiTForImageClassification", _PICTURES, "pictures"),
    "beit": ("BeitConfig", "BeitForImageClassification", _PICTURES, "pictures"),
    "dinov2": (
        *("Dinov2Config", "Dinov2ForImageClassification"),
        {**_PICTURES, "mlp_ratio": 2},
        "pictures",
    ),
    "dinov3": ("DINOv3ViTConfig", "DINOv3ViTModel", _PICTURES, "pictures"),
    "mae": (
        *("ViTMAEConfig", "ViTMAEModel"),
        {**_PICTURES, "mask_ratio": 0.0},
        "pictures",
    ),
    "swin": (
        *("SwinConfig", "SwinForImageClassification"),
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 24,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
            "num_labels": 10,
        },
        "pictures",
    ),
    "convnext": (
        *("ConvNextConfig", "ConvNextForImageClassification"),
        _STAGES,
        "pictures",
    ),
    "resnet": (
        *("ResNetConfig", "ResNetForImageClassification"),
        {**_STAGES, "hidden_sizes": [32, 48, 64, 96], "embedding_size": 16},
        "pictures",
    ),
    "segformer": (
        *("SegformerConfig", "SegformerForSemanticSegmentation"),
        {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [16, 32, 48, 64],
            "decoder_hidden_size": 32,
            "num_attention_heads": [1, 2, 3, 4],
            "num_labels": 5,
        },
        "pictures64",
    ),
    "mobilevit": (
        *("MobileViTConfig", "MobileViTForImageClassification"),
        {
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [16, 16, 24, 24, 32, 32, 64],
            "num_attention_heads": 4,
            "image_size": 64,
            "num_labels": 10,
        },
        "pictures64",
    ),
    "poolformer": (
        *("PoolFormerConfig", "PoolFormerForImageClassification"),
        {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 24, 32, 48], "num_labels": 10},
        "pictures64",
    ),
    "detr": (
        *("DetrConfig", "DetrForObjectDetection"),
        {
            "d_model": 48,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "num_queries": 6,
            "num_labels": 5,
            "use_timm_backbone": False,
            "use_pretrained_backbone": False,
            "backbone": None,
        },
        "detr",
    ),
    "layoutlm": ("LayoutLMConfig", "LayoutLMModel", _ENCODER, "layout"),
    "vilt": ("ViltConfig", "ViltModel", {**_ENCODER, "image_size": 32, "patch_size": 8}, "vilt"),
    "decision-transformer": (
        *("DecisionTransformerConfig", "DecisionTransformerModel"),
        {
            "state_dim": 7,
            "act_dim": 3,
            "hidden_size": 48,
            "n_layer": 2,
            "n_head": 4,
            "max_ep_len": 20,
            "n_positions": 64,
            "use_cache": False,
        },
        "decisions",
    ),
    "time-series": (
        *("PatchTSTConfig", "PatchTSTForPrediction"),
        {
            "num_input_channels": 2,
            "context_length": 32,
            "patch_length": 8,
            "patch_stride": 8,
            "d_model": 48,
            "num_attention_heads": 4,
            "ffn_dim": 96,
            "num_hidden_layers": 2,
            "prediction_length": 4,
            "loss": "mse",
        },
        "series",
    ),
}


def _tokens(count: int = 2, length: int = 10) -> Tensor:
    return torch.randint(3, 101, (count, length))


EXAMPLES: dict[str, Callable[[], dict[str, Any]]] = {
    "tokens": lambda: {"input_ids": _tokens(), "attention_mask": torch.ones(2, 10).long()},
    "pair": lambda: {"input_ids": _tokens(), "decoder_input_ids": _tokens(length=6)},
    "pictures": lambda: {"pixel_values": images(32)},
    "pictures64": lambda: {"pixel_values": images(64)},
    "detr": lambda: {"pixel_values": images(64), "pixel_mask": torch.ones(2, 64, 64).long()},
    "mel": lambda: {
        "input_features": torch.randn(2, 16, 40),
        "decoder_input_ids": _tokens(length=6),
    },
    "wave": lambda: {"input_values": torch.randn(2, 600)},
    "spectrum": lambda: {"input_values": torch.randn(2, 32, 16)},
    "clip": lambda: {"input_ids": _tokens(), "pixel_values": images(32)},
    "layout": lambda: {"input_ids": _tokens(), "bbox": torch.randint(0, 9, (2, 10, 4)).sort(-1)[0]},
    "vilt": lambda: {"input_ids": _tokens(), "pixel_values": images(32)},
    "decisions": lambda: {
        "states": torch.randn(2, 5, 7),
        "actions": torch.randn(2, 5, 3),
        "rewards": torch.randn(2, 5, 1),
        "returns_to_go": torch.randn(2, 5, 1),
        "timesteps": torch.arange(5).expand(2, 5),
        "attention_mask": torch.ones(2, 5).long(),
    },
    "series": lambda: {"past_values": torch.randn(2, 32, 2)},
}


def hf_settings(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a configuration, with those that hold configurations themselves."""
    settings = dict(settings)
    if name in ("clip", "siglip"):
        text = {**_ENCODER, "projection_dim": 32, "bos_token_id": 1, "eos_token_id": 2}
        picture = {**_PICTURES, "projection_dim": 32}
        settings |= {"text_config": text, "vision_config": picture, "projection_dim": 32}
    if name == "detr":
        import transformers

        settings["backbone_config"] = transformers.ResNetConfig(
            embedding_size=16,
            hidden_sizes=[16, 24, 32, 48],
            depths=[1, 1, 1, 1],
            out_features=["stage4"],  # pyright: ignore[reportCallIssue]
        )
        del settings["backbone"]
    return settings


def hf_model(name: str) -> Case:
    """Build a network of transformers from a small configuration."""
    import transformers

    config, kind, settings, example = TRANSFORMERS[name]
    built = getattr(transformers, config)(**hf_settings(name, settings))
    return Case(getattr(transformers, kind)(built), EXAMPLES[example]())


def lora(name: str) -> Case:
    """Build a network of transformers with LoRA on its attention layers."""
    import peft

    case = hf_model(name)
    targets = {"llama": ["q_proj", "v_proj"], "bert": ["query", "value"], "gpt2": ["c_attn"]}[name]
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets)
    model = peft.get_peft_model(case.model, config)  # pyright: ignore[reportArgumentType]
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return Case(model, case.example)
