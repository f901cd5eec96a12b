"""Published formats, both ways: VTP, LightningDiT, and the hub they lie on."""
