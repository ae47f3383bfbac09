"""The document of each command, in no format."""
