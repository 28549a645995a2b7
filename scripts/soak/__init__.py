"""Loads a server with callers of all kinds, good, careless and hostile, and watches that it neither errs nor grows."""
