"""Kaleido's published checkpoint: its names, and its way into diffusers' layout."""
