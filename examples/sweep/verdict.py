"""Decides whether dropout is effective."""

from examples.sweep.statistics import paired_difference


def judge(scores):
    """Compares every p with no dropout, seed by seed, and chooses one.

    The chosen p > 0 has the highest mean validation accuracy. If several have, it is the smallest.
    The best of several values looks better than it is. Therefore the intervals of all p hold
    jointly, and the test rows, which are not used for the choice, have to confirm it.

    Args:
        scores: `{p: {score: array with a number per seed}}`, for p = 0 and others.

    Returns:
        dict: the verdict. Differences are results of
            `examples.sweep.statistics.paired_difference`.

            - `chosen_p`;
            - `changes`: `{p: {"val_acc", "gap"}}`, dropout minus no dropout;
            - `test`: `{"test_acc", "test_loss", "mc_test_acc", "mc_test_loss"}` for the chosen p.
              The last two are Monte Carlo average minus plain evaluation;
            - `effective`: "yes" if validation accuracy rose, the gap to training shrank, and test
              accuracy rose; "no" if validation accuracy fell for each p; "not distinguishable"
              otherwise;
            - `reason`: the reason in words.
    """
    none = scores[0.0]
    dropping = [p for p in scores if p > 0]
    changes = {
        p: {
            name: paired_difference(none[name], scores[p][name], comparisons=len(dropping))
            for name in ("val_acc", "gap")
        }
        for p in dropping
    }
    chosen = max(dropping, key=lambda p: (scores[p]["val_acc"].mean(), -p))
    with_dropout = scores[chosen]
    test = {}
    for name in ("test_acc", "test_loss"):
        test[name] = paired_difference(none[name], with_dropout[name])
        test[f"mc_{name}"] = paired_difference(with_dropout[name], with_dropout[f"mc_{name}"])
    effective, reason = _conclusion(changes, chosen, test["test_acc"]["verdict"])
    return {
        "chosen_p": chosen,
        "changes": changes,
        "test": test,
        "effective": effective,
        "reason": reason,
    }


def _conclusion(changes, chosen, test):
    val, gap = (changes[chosen][name]["verdict"] for name in ("val_acc", "gap"))
    if all(change["val_acc"]["verdict"] == "down" for change in changes.values()):
        return "no", "validation accuracy falls at every p of the grid"
    if val != "up":
        return (
            "not distinguishable",
            "no p raises validation accuracy beyond the noise of the seeds",
        )
    if gap != "down":
        return (
            "not distinguishable",
            "validation accuracy rises, but the gap to training does not shrink beyond the noise, "
            "so less overfitting is not the reason",
        )
    if test != "up":
        return (
            "not distinguishable",
            "validation accuracy rises and the gap to training shrinks, but the test rows, which "
            "were not used to choose p, do not confirm it",
        )
    return (
        "yes",
        "validation accuracy rises, the gap to training shrinks, and the test rows confirm it",
    )
