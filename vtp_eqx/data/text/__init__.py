"""Texts and the tokens they are made of."""
