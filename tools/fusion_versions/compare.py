"""Compares what `fuse` does with two versions of a library."""

from tools.coverage.measure import TOLERANCE


def differences(before, after):
    """Yields a line for each difference that concerns a user, family by family.

    Args:
        before, after: {family: its result}, see :mod:`.probe`.
    """
    for family, old in before.items():
        new = after.get(family)
        if new is None:
            yield f"{family}: is not measured"
        elif "error" in old or "error" in new:
            if old.get("error") != new.get("error"):
                yield f"{family}: {new.get('error', 'works')}"
        else:
            yield from (f"{family}: {text}" for text in _family(old, new))
    yield from (f"{family}: is new" for family in after if family not in before)


def _family(old, new):
    for key, verb in (("fused", "are no longer fused"), ("skipped", "are no longer skipped")):
        for site, count in old[key].items():
            lost = count - new[key].get(site, 0)
            if lost > 0:
                yield f"{lost} {verb}: {site}"
    for key, verb in (("fused", "are fused now"), ("skipped", "are skipped now")):
        for site, count in new[key].items():
            more = count - old[key].get(site, 0)
            if more > 0:
                yield f"{more} {verb}: {site}"
    for key in ("sites", "neighbours", "alone", "left"):
        if old[key] != new[key]:
            yield f"calls, {key}: {old[key]} before, {new[key]} now"


def is_worse(before, after):
    """Whether a family fails, or has fewer calls with neighbours or more calls left with torch."""
    return any(_is_worse(before.get(family, {}), new) for family, new in after.items())


def _is_worse(old, new):
    if "error" in new:
        return "error" not in old
    if "sites" not in old:
        return wrong(new)
    return wrong(new) or new["neighbours"] < old["neighbours"] or new["left"] > old["left"]


def wrong(result):
    """Whether a fused model computes something else."""
    parity = result["parity"]
    return result["evaluation"] is False or (parity is not None and parity > TOLERANCE)
