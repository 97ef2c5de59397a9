"""Callbacks that prune while Keras or Lightning trains; each needs an optional dependency.

Imports `pruning` and everything below it.
"""
