"""Losses: functions from arrays to one value per example."""
