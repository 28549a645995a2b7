"""Batching that is told a latency: what is learned of runs and arrivals, and the wait, size and admission chosen."""
