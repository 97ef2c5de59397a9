"""Prune inside the user's own training loop. Imports `pruning` and all below it."""
