"""Published results, each reproduced by one command: `python -m experiments.NAME`."""
