"""The report of :func:`fused_dropout.fuse`: what it fused, what it skipped, and why."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Site:
    """A module that matches a pattern.

    Attributes:
        name: its name in ``model.named_modules()``.
        module: the name of its class.
        group: the group of the pattern, such as "torch.nn".
        fused: True if it is fused now, or would be fused in a dry run.
        text: what of it is fused, or the reason why it was skipped.
    """

    name: str
    module: str
    group: str
    fused: bool
    text: str


@dataclass(frozen=True)
class FusionReport:
    """All modules that match a pattern; ``print`` shows them as a list.

    Attributes:
        sites: list of :class:`Site`, in the order of ``model.named_modules()``.
        dry_run: True if ``fuse`` changed nothing, because of ``dry_run`` or ``strict``.
    """

    sites: list = field(default_factory=list)
    dry_run: bool = False

    @property
    def fused(self):
        """List of the sites that are fused."""
        return [site for site in self.sites if site.fused]

    @property
    def skipped(self):
        """List of the sites that cannot be fused."""
        return [site for site in self.sites if not site.fused]

    def __str__(self):
        if not self.sites:
            return "fuse: no module matches a pattern"
        verb = "would be fused" if self.dry_run else "fused"
        lines = [f"fuse: {len(self.fused)} modules {verb}, {len(self.skipped)} skipped"]
        for title, sites in (("fused", self.fused), ("skipped", self.skipped)):
            for line in _grouped(sites):
                lines.append(f"  {title}: {line}")
        return "\n".join(lines)


def _grouped(sites):
    """One line for all sites that differ only in the numbers in their names.

    Those are the layers of a stack, such as ``layers.0`` and ``layers.1``.
    """
    groups = {}
    for site in sites:
        shape = tuple("" if part.isdigit() else part for part in site.name.split("."))
        groups.setdefault((shape, site.module, site.text), []).append(site.name)
    for (_, module, text), names in groups.items():
        parts = zip(*(name.split(".") for name in names), strict=True)
        name = ".".join(one[0] if len(set(one)) == 1 else "*" for one in parts)
        count = f" ({len(names)})" if len(names) > 1 else ""
        yield f"{name or 'the model'}{count}: {module}: {text}"


class FusionError(RuntimeError):
    """``fuse(strict=True)`` found modules that cannot be fused; it changed nothing.

    Attributes:
        report: the :class:`FusionReport`.
    """

    def __init__(self, report):
        super().__init__(f"fuse: strict is True, but some modules cannot be fused.\n{report}")
        self.report = report

    def __reduce__(self):
        return FusionError, (self.report,)
