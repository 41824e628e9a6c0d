"""The configurations of Stable Diffusion 1 and XL as published, of which single files say nothing.

What is left out has the default of the reference's constructor.

Sources: [LDM] Rombach et al. 2112.10752 (v1-inference.yaml of its code), [SDXL] Podell et al. 2307.01952 (sd_xl_base.yaml).
"""

from typing import Any

CLIP_L: dict[str, Any] = {  # OpenAI's ViT-L/14
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "hidden_act": "quick_gelu",
    "eos_token_id": 2,
    "projection_dim": 768,
}
CLIP_G: dict[str, Any] = {  # OpenCLIP's ViT-bigG/14
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "hidden_act": "gelu",
    "eos_token_id": 2,
    "projection_dim": 1280,
}
AUTOENCODER: dict[str, Any] = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
BETAS: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}
ONE: dict[str, dict[str, Any]] = {
    "unet": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "vae": {**AUTOENCODER, "scaling_factor": 0.18215},
    "text_encoder": CLIP_L,
    "scheduler": {**BETAS, "_class_name": "PNDMScheduler", "skip_prk_steps": True},
}
XL: dict[str, dict[str, Any]] = {
    "unet": {
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "vae": {**AUTOENCODER, "scaling_factor": 0.13025},
    "text_encoder": CLIP_L,
    "text_encoder_2": CLIP_G,
    "scheduler": {**BETAS, "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"},
}
