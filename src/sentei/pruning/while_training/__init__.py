"""Prune inside the user's own training loop. Imports `pruning` and everything below it."""
