"""Numbers that say how good a tokenizer is, and the cards they are written with."""
