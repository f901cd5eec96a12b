"""Datasets, captions, augmentation and masks; knows no model."""
