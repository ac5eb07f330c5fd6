"""The verbs of the command line: one module each, whose `run` takes the flags and composes library functions."""
