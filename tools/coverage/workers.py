"""Runs a function for each of many names, each in a process of its own.

A crash, a hang or a lack of memory is the result of one name and does not end the run. The
processes are forked from this one, so they start with everything imported.
"""

import multiprocessing
import os
import resource
import sys
import time
import traceback
from multiprocessing.connection import wait

MEMORY = 16 << 30  # address space of a process in bytes


def run_each(function, names, jobs, timeout):
    """Yields ``(name, seconds, result)`` for each name, in the order in which they end.

    Args:
        function: of a name; returns a dict that can be pickled.
        names: list of str.
        jobs: the number of processes at a time.
        timeout: seconds that a name may take.

    A result with the key "error" is the text of an exception, or says how the process ended.
    """
    context = multiprocessing.get_context("fork")
    waiting = list(names)[::-1]
    running = {}  # connection: (name, process, start)
    while waiting or running:
        while waiting and len(running) < jobs:
            name = waiting.pop()
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(function, name, sender), daemon=True)
            process.start()
            sender.close()
            running[receiver] = name, process, time.monotonic()
        for connection in wait(running, timeout=1):
            name, process, start = running.pop(connection)
            try:
                result = connection.recv()
            except EOFError:
                process.join()
                result = {"error": f"the process ended with exit code {process.exitcode}"}
            process.join()
            yield name, time.monotonic() - start, result
        for connection, (name, process, start) in list(running.items()):
            if time.monotonic() - start > timeout:
                process.kill()
                process.join()
                del running[connection]
                yield name, timeout, {"error": f"not ready after {timeout} s"}


def _work(function, name, sender):
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    # What models print is not of interest.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.dup2(null, sys.stderr.fileno())
    try:
        result = function(name)
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        result = {"error": f"{text} ({place.filename}:{place.lineno})"}
    sender.send(result)
    sender.close()
    # Without the handlers of a normal exit, which could wait for threads of the parent.
    os._exit(0)
