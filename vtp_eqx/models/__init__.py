"""Networks: the tokenizer and its parts, the diffusion transformer, and the frozen
networks that measure (scenes, LPIPS, Inception, DINOv2)."""
