"""Loads a server with correct, careless and hostile callers, and checks that it makes no errors and does not grow."""
