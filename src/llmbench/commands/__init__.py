"""The commands, one module each: it reads arguments, calls one function and prints."""
