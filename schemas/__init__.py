"""The specification of the format: FORMAT.md and JSON Schemas, shipped with the package."""
