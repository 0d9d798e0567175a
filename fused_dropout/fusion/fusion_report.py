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
    """What is fused in a model and which dropout is left to torch; ``print`` shows it as a list.

    Attributes:
        sites: list of :class:`Site`, the modules that match a pattern, in the order of
            ``model.named_modules()``.
        dry_run: True if ``fuse`` changed nothing, because of ``dry_run`` or ``strict``.
        dropout_sites: list of :class:`~.sites.DropoutSite`, the dropout of a training step. With
            inputs (see :func:`fused_dropout.report`) one for each call that was really made.
    """

    sites: list = field(default_factory=list)
    dry_run: bool = False
    dropout_sites: list = field(default_factory=list)

    @property
    def fused(self):
        """List of the sites that are fused."""
        return [site for site in self.sites if site.fused]

    @property
    def skipped(self):
        """List of the sites that cannot be fused, or do not run fused any more."""
        return [site for site in self.sites if not site.fused]

    def dropout_of_kind(self, kind):
        """List of the dropout sites of a kind: "neighbours", "alone" or "torch"."""
        return [site for site in self.dropout_sites if site.kind == kind]

    def __str__(self):
        if not self.sites and not self.dropout_sites:
            return "fuse: no module matches a pattern"
        verb = "would be fused" if self.dry_run else "fused"
        lines = [f"fuse: {len(self.fused)} modules {verb}, {len(self.skipped)} skipped"]
        neighbours, alone, torch = (
            len(self.dropout_of_kind(kind)) for kind in ("neighbours", "alone", "torch")
        )
        lines.append(
            f"dropout of a training step: {neighbours} in a kernel with neighbours, {alone} alone "
            f"without a stored mask, {torch} left with torch"
        )
        rows = [("fused", one.name, one.module, one.text) for one in self.fused]
        rows += [("skipped", one.name, one.module, one.text) for one in self.skipped]
        rows += [
            ("left with torch", one.name, one.function, one.reason)
            for one in self.dropout_of_kind("torch")
        ]
        lines += (f"  {line}" for line in _grouped(rows))
        return "\n".join(lines)


def _grouped(rows):
    """One line for all rows that differ only in the numbers in their names.

    Those are the layers of a stack, such as ``layers.0`` and ``layers.1``.
    """
    groups = {}
    for title, name, module, text in rows:
        shape = tuple("" if part.isdigit() else part for part in name.split("."))
        groups.setdefault((title, shape, module, text), []).append(name)
    for (title, _, module, text), names in groups.items():
        parts = zip(*(name.split(".") for name in names), strict=True)
        name = ".".join(one[0] if len(set(one)) == 1 else "*" for one in parts)
        count = f" ({len(names)})" if len(names) > 1 else ""
        yield f"{title}: {name or 'the model'}{count}: {module}: {text}"


class FusionError(RuntimeError):
    """With ``strict=True``: some modules are not fused. ``fuse`` changed nothing then.

    Attributes:
        report: the :class:`FusionReport`.
    """

    def __init__(self, report):
        super().__init__(f"fuse: strict is True, but some modules are not fused.\n{report}")
        self.report = report

    def __reduce__(self):
        return FusionError, (self.report,)
