"""Results that exist once, whichever thread asks first."""

import functools
import threading


def made_once(function):
    """As ``functools.cache``, but threads that ask at the same time get one and the same result."""
    cached = functools.cache(function)
    making = threading.Lock()

    @functools.wraps(function)
    def call(*args):
        with making:
            return cached(*args)

    return call
