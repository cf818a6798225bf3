"""Small models of other packages with inputs: what ``coverage.py --package transformers`` and the like port.

Each is built by its own class, with fewer and narrower layers.
"""

import importlib

import torch

WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = {"vocab_size": 100, **WIDTH}
GROUPED = {**TEXT, "num_key_value_heads": 2, "use_cache": False}
VISION = {"image_size": 32, "patch_size": 8, **WIDTH}
STAGES = {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1]}
POSITIONS = {"max_position_embeddings": 40}
ENCODER_DECODER = {
    "vocab_size": 100, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "use_cache": False,
}  # fmt: skip


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def ids(*shape):
    return torch.randint(3, 90, shape, generator=torch.Generator().manual_seed(1))


IDS, IMAGES = {"input_ids": ids(2, 12)}, {"pixel_values": drawn(2, 3, 32, 32)}
MASKED = {**IDS, "attention_mask": torch.tensor([[1] * 12, [1] * 7 + [0] * 5])}
SOUND = {"input_values": drawn(2, 800)}
STEP, LATENTS = {"timestep": torch.tensor([3, 7])}, drawn(2, 4, 16, 16)
SEGMENTED = {"encoder_name": "resnet18", "encoder_weights": None, "classes": 2}
SMALL_VIT = {"image_size": 64, "patch_size": 16, "num_classes": 5, "dim": 32, "depth": 2, "heads": 2, "mlp_dim": 64}

# name: (class, its configuration or arguments, inputs)
TRANSFORMERS = {
    "albert": ("AlbertModel", {**TEXT, "embedding_size": 16}, MASKED),
    "bart": ("BartModel", {**ENCODER_DECODER, **POSITIONS}, IDS),
    "bert": ("BertForTokenClassification", TEXT, MASKED),
    "bloom": ("BloomModel", {"vocab_size": 100, "hidden_size": 32, "n_layer": 2, "n_head": 4, "use_cache": False}, IDS),
    "clip": (
        "CLIPModel",
        {"text_config": {**TEXT, **POSITIONS}, "vision_config": VISION, "projection_dim": 16},
        {**IDS, **IMAGES},
    ),
    "convnext": ("ConvNextModel", STAGES, IMAGES),
    "deberta_v2": ("DebertaV2Model", TEXT, MASKED),
    "deit": ("DeiTModel", VISION, IMAGES),
    "dinov2": ("Dinov2Model", {**VISION, "mlp_ratio": 2}, IMAGES),
    "distilbert": (
        "DistilBertModel",
        {"vocab_size": 100, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
        MASKED,
    ),
    "electra": ("ElectraModel", {**TEXT, "embedding_size": 16}, MASKED),
    "gemma": ("GemmaForCausalLM", {**GROUPED, "head_dim": 8}, IDS),
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "use_cache": False},
        IDS,
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", {**TEXT, "use_cache": False}, IDS),
    "llama": ("LlamaForCausalLM", GROUPED, IDS),
    "mamba": (
        "MambaModel",
        {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "use_cache": False},
        IDS,
    ),
    "mistral": ("MistralForCausalLM", GROUPED, IDS),
    "mobilevit": (
        "MobileViTModel",
        {"image_size": 64, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 48]},
        {"pixel_values": drawn(2, 3, 64, 64)},
    ),
    "opt": (
        "OPTForCausalLM",
        {
            "vocab_size": 100,
            "hidden_size": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "word_embed_proj_dim": 32,
            "use_cache": False,
            **POSITIONS,
        },
        IDS,
    ),
    "phi": ("PhiForCausalLM", {**TEXT, "use_cache": False}, IDS),
    "qwen2": ("Qwen2ForCausalLM", GROUPED, IDS),
    "resnet": ("ResNetModel", {**STAGES, "embedding_size": 8}, IMAGES),
    "roberta": ("RobertaForSequenceClassification", {**TEXT, **POSITIONS}, MASKED),
    "segformer": (
        "SegformerForSemanticSegmentation",
        {**STAGES, "num_attention_heads": [1, 2, 4, 8], "decoder_hidden_size": 16},
        IMAGES,
    ),
    "swin": (
        "SwinModel",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4},
        IMAGES,
    ),
    "t5": (
        "T5Model",
        {"vocab_size": 100, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "use_cache": False},
        {**IDS, "decoder_input_ids": ids(2, 9)},
    ),
    "vit": ("ViTForImageClassification", VISION, IMAGES),
    "wav2vec2": (
        "Wav2Vec2Model",
        {
            **WIDTH,
            "conv_dim": (16, 16),
            "conv_stride": (5, 2),
            "conv_kernel": (10, 3),
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 2,
            "vocab_size": 30,
        },
        SOUND,
    ),
    "whisper": (
        "WhisperModel",
        {
            **ENCODER_DECODER,
            "num_mel_bins": 16,
            "max_source_positions": 20,
            "max_target_positions": 20,
            "pad_token_id": 0,
        },
        {"input_features": drawn(2, 16, 40), "decoder_input_ids": ids(2, 9)},
    ),
}


DIFFUSERS = {
    "autoencoder_kl": (
        "AutoencoderKL",
        {
            "block_out_channels": (32, 64),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
        },
        [drawn(2, 3, 32, 32)],
    ),
    "unet_2d": (
        "UNet2DModel",
        {
            "sample_size": 32,
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        },
        {"sample": drawn(2, 3, 32, 32), **STEP},
    ),
    "unet_2d_condition": (
        "UNet2DConditionModel",
        {
            "sample_size": 16,
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "cross_attention_dim": 32,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        },
        {"sample": LATENTS, **STEP, "encoder_hidden_states": drawn(2, 5, 32)},
    ),
}
SEGMENTATION = {
    name: (name, settings, [drawn(2, 3, 64, 64)])
    for name, settings in {
        **dict.fromkeys(("DeepLabV3Plus", "FPN", "Linknet", "MAnet", "PSPNet", "Segformer", "UPerNet"), SEGMENTED),
        "Unet": {**SEGMENTED, "encoder_name": "efficientnet-b0"},
        "UnetPlusPlus": SEGMENTED,
    }.items()
}
VIT_PYTORCH = {
    "cait": (
        "cait:CaiT",
        {**SMALL_VIT, "cls_depth": 1},
        [drawn(2, 3, 64, 64)],
    ),
    "cct": (
        "cct:CCT",
        {
            **{"img_size": (64, 64), "embedding_dim": 32, "num_classes": 5, "num_layers": 2, "num_heads": 2},
            **{"n_conv_layers": 2, "kernel_size": 7, "stride": 2, "padding": 3, "mlp_ratio": 2.0},
        },
        [drawn(2, 3, 64, 64)],
    ),
    "levit": (
        "levit:LeViT",
        {"image_size": 64, "num_classes": 5, "stages": 2, "dim": (32, 48), "depth": 1, "heads": (2, 2), "mlp_mult": 2},
        [drawn(2, 3, 64, 64)],
    ),
    "nest": (
        "nest:NesT",
        {
            **{"image_size": 64, "patch_size": 4, "dim": 16, "heads": 2, "num_hierarchies": 2, "block_repeats": (1, 1)},
            "num_classes": 5,
        },
        [drawn(2, 3, 64, 64)],
    ),
    "simple_vit": ("simple_vit:SimpleViT", SMALL_VIT, [drawn(2, 3, 64, 64)]),
    "vit": ("vit:ViT", SMALL_VIT, [drawn(2, 3, 64, 64)]),
}
PACKAGES = {
    "transformers": TRANSFORMERS,
    "diffusers": DIFFUSERS,
    "segmentation_models_pytorch": SEGMENTATION,
    "vit_pytorch": VIT_PYTORCH,
}


def build(package, name):
    """The module, in evaluation mode, and its inputs, in order or by name."""
    target, settings, inputs = PACKAGES[package][name]
    module, _, kind = target.rpartition(":")
    cls = getattr(importlib.import_module(f"{package}.{module}" if module else package), kind)
    torch.manual_seed(0)
    return (cls(cls.config_class(**settings)) if package == "transformers" else cls(**settings)).eval(), inputs
