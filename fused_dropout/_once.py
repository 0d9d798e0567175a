"""A cache whose results are created exactly once, even with several threads."""

import functools
import threading


def made_once(function):
    """Like `functools.cache`, but concurrent first calls return the same object."""
    cached = functools.cache(function)
    lock = threading.Lock()

    @functools.wraps(function)
    def call(*args):
        with lock:
            return cached(*args)

    return call
