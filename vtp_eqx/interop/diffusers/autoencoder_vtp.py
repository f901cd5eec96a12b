"""A visual tokenizer in PyTorch: `AutoencoderVTP.from_pretrained(folder)`.

Images are `[batch, 3, height, width]` in [-1, 1] and latents `[batch, channels, rows,
columns]`, raw: generators learn `(latents - latents_mean) / latents_std` of `config`.
Tensors that only pre-training needs are left out.
"""

# pyright: reportMissingImports=false

import json
from pathlib import Path

from safetensors.torch import load_file
import torch
from torch.nn import functional as F, Module, ParameterDict


class AutoencoderVTP(Module):
    def __init__(self, config, tensors):
        super().__init__()
        self.config, self.patch_size = config, config["patch_size"]
        names = [n for n in tensors if n.startswith(("encoder.", "decoder."))]
        self.weights = ParameterDict({n.replace(".", "/"): tensors[n] for n in names})
        for name in ("pixel_mean", "pixel_std"):
            self.register_buffer(name, torch.tensor(config[name]).view(3, 1, 1))

    @classmethod
    def from_pretrained(cls, folder):
        config = json.loads(Path(folder, "config.json").read_text())
        return cls(config, load_file(f"{folder}/diffusion_pytorch_model.safetensors"))

    def encode(self, images):
        pixels = ((images + 1) / 2 - self.pixel_mean) / self.pixel_std
        return self.transform("encoder", F.pixel_unshuffle(pixels, self.patch_size))

    def decode(self, latents):
        pixels = F.pixel_shuffle(self.transform("decoder", latents), self.patch_size)
        return (pixels * self.pixel_std + self.pixel_mean) * 2 - 1

    def transform(self, part, grid):
        config, kind = self.config[part], getattr(torch, self.config["rope"])
        get = lambda name, default=None: self.weights.get(f"{part}/{name}", default)
        linear = lambda x, name: F.linear(x, get(f"{name}/weight"), get(f"{name}/bias"))

        def norm(x, name):
            weight, bias = get(f"{name}/weight"), get(f"{name}/bias")
            if bias is not None:
                return F.layer_norm(x, weight.shape, weight, bias, 1e-6)
            return x if weight is None else F.rms_norm(x, weight.shape, weight, 1e-5)

        def axis(n):
            return 2 * ((torch.arange(n).to(kind) + 0.5) / torch.tensor(n).to(kind)) - 1

        half = lambda x: torch.cat([-x.chunk(2, -1)[1], x.chunk(2, -1)[0]], -1)
        rotate = lambda x: (x.to(kind) * cos + half(x.to(kind)) * sin).to(x)
        tokens = linear(grid.flatten(2).mT, "embed")
        if part == "encoder":
            tokens = torch.cat([get("cls_token").expand(len(grid), 1, -1), tokens], 1)
        turns = torch.cartesian_prod(*map(axis, grid.shape[2:])).float() * 2 * torch.pi
        periods = torch.tensor(config["rope_periods"]).to(kind)
        angles = (turns.to(kind)[..., None] / periods).float().flatten(1).repeat(1, 2)
        angles = F.pad(angles, (0, 0, tokens.shape[1] - len(angles), 0)).to(grid.device)
        cos, sin = angles.cos().to(kind), angles.sin().to(kind)
        for block in range(config["depth"]):
            at = f"blocks/{block}/"
            x = linear(norm(tokens, at + "attention_norm"), at + "to_qkv")
            x = x.unflatten(-1, (3, config["num_heads"], -1)).permute(2, 0, 3, 1, 4)
            query, key = norm(x[0], at + "query_norm"), norm(x[1], at + "key_norm")
            x = F.scaled_dot_product_attention(rotate(query), rotate(key), x[2])
            x = linear(x.transpose(1, 2).flatten(2), at + "to_out")
            tokens = tokens + x * get(at + "attention_scale", 1)
            x = norm(tokens, at + "feed_forward_norm")
            up, is_mlp = linear(x, at + "up"), config["feed_forward"] == "mlp"
            x = F.gelu(up) if is_mlp else F.silu(linear(x, at + "gate")) * up
            tokens = tokens + linear(x, at + "out") * get(at + "feed_forward_scale", 1)
        tokens = linear(norm(tokens[:, -len(turns) :], "norm"), "out")
        if part == "encoder" and self.config.get("latent_norm") == "rms":
            tokens = F.rms_norm(tokens, tokens.shape[-1:], eps=1e-6)
        return tokens.mT.unflatten(2, grid.shape[2:])
