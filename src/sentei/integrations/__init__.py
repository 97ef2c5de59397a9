"""Callbacks that prune while other libraries train, and their files; each needs an extra.

May import `pruning.while_training` and `formats`, and all that `pruning.while_training` may import.
"""
