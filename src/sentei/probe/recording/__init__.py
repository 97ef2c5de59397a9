"""Record the layer outputs of one forward pass over the samples and replay them.

May import `network` with its packages, `reading`, and the base modules.
"""
