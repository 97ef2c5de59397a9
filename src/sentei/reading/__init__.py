"""Read data of any form as samples: tensors, Datasets, loaders, batches with or without names.

May import the base modules only.
"""
