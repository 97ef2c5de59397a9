"""Record one pass of a network over the samples, and replay it. Imports `network`."""
