"""Callbacks that prune while Keras or Lightning trains; each needs an optional dependency.

May import `pruning.while_training`, and all that it may import.
"""
