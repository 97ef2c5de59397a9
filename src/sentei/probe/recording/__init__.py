"""Record the layer outputs of one forward pass over the samples and replay them.

Imports `network`.
"""
