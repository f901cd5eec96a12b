"""Networks that are trained: tokenizer, diffusion transformer, discriminators."""
