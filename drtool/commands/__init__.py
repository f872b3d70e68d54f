"""The commands: a short function each, that parses, calls one use case and gives an exit status."""
