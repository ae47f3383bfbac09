"""llmbench measures how fast open language models run, and says how far each number can be trusted."""

__version__ = "0.1.0"

COMPLETION = "_LLMBENCH_COMPLETE"
"""The environment variable through which a shell asks for completions."""
