"""Views made on the device: crops, colors, masks."""
