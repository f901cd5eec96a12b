"""What networks look at, made on the device: crops, colors, masks."""
