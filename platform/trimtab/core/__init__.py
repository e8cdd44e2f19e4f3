"""What every other room stands on: vocabulary, records, errors, seeds, hashes, protocols.

Imports numpy, pydantic and pyyaml, and none of the rooms above it.
"""
