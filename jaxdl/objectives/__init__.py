"""Losses and what is measured; losses return one value per example."""
