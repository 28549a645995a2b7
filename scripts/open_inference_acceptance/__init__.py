"""Checks of ensembles, sequences and generators with real models and many callers, too long for the tests."""
