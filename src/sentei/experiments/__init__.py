"""Prune one network in many ways and compare the results. Imports everything below `papers`."""
