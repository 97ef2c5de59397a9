"""Describe a network as plain data and compute its exact size in every file format.

Imports `network` and its `surgery`.
"""
