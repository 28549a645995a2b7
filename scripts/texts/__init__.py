"""Measures a text model whose requests have different lengths: MiniLM, with and without padding."""
