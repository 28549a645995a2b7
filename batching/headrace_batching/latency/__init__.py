"""Batching for a latency objective: learns from runs and arrivals, and chooses wait, size and admission."""
