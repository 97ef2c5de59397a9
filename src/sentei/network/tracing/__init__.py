"""Find the units of any network by running it. Imports `network`."""
