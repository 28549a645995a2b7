"""Loads a server with correct, careless and hostile callers, and checks that it neither errs nor grows."""
