"""The public names of a package, collected from its files."""

import sys


def public_names(package):
    """The names in `__all__` of every file of `package` that has been imported, sorted."""
    return sorted(
        name
        for path, module in list(sys.modules.items())
        if path.rpartition(".")[0] == package
        for name in getattr(module, "__all__", ())
    )
