"""Let the remaining units take over the work of a removed one. Imports `probe` and `network`."""
