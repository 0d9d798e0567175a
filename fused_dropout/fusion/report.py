"""What :func:`fused_dropout.fuse` did, and what it left alone, and why."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Place:
    """A module that a pattern matched.

    Attributes:
        name: as in ``model.named_modules()``.
        module: name of its class.
        group: of the pattern that matched, such as "transformer".
        fused: whether it is fused now (or would be, in a dry run).
        text: what of it is fused, or why it was left alone.
    """

    name: str
    module: str
    group: str
    fused: bool
    text: str


@dataclass(frozen=True)
class FusionReport:
    """Every place that was looked at; printed, it is a table.

    Attributes:
        places: list of :class:`Place`, in the order of ``model.named_modules()``.
        dry_run: whether nothing was changed.
    """

    places: list = field(default_factory=list)
    dry_run: bool = False

    @property
    def fused(self):
        """The places that are fused."""
        return [place for place in self.places if place.fused]

    @property
    def skipped(self):
        """The places that were left alone."""
        return [place for place in self.places if not place.fused]

    def __str__(self):
        if not self.places:
            return "fuse: no module matched a pattern"
        verb = "would be fused" if self.dry_run else "fused"
        lines = [f"fuse: {len(self.fused)} modules {verb}, {len(self.skipped)} left alone"]
        for title, places in (("fused", self.fused), ("left alone", self.skipped)):
            for line in _grouped(places):
                lines.append(f"  {title}: {line}")
        return "\n".join(lines)


def _grouped(places):
    """A line for each kind of place: the layers of a stack differ in their numbers only."""
    kinds = {}
    for place in places:
        shape = tuple("" if part.isdigit() else part for part in place.name.split("."))
        kinds.setdefault((shape, place.module, place.text), []).append(place.name)
    for (_, module, text), names in kinds.items():
        parts = zip(*(name.split(".") for name in names), strict=True)
        name = ".".join(one[0] if len(set(one)) == 1 else "*" for one in parts)
        count = f" ({len(names)})" if len(names) > 1 else ""
        yield f"{name or 'the model'}{count}: {module}: {text}"


class FusionError(RuntimeError):
    """``fuse(strict=True)`` left something alone; nothing was changed.

    Attributes:
        report: the :class:`FusionReport`.
    """

    def __init__(self, report):
        super().__init__(f"fuse: strict is True, but not every place can be fused.\n{report}")
        self.report = report

    def __reduce__(self):
        return FusionError, (self.report,)
