"""Networks: the tokenizer's parts, the diffusion transformer, the scene network."""
