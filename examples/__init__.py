"""Examples that run with one command each, such as `python -m examples.digits`."""
