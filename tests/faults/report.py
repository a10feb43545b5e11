"""The report of a campaign."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from .campaign import Plan, Result


def report(plan: Plan, result: Result, work: Path) -> str:
    """The figures, then each violation with its evidence."""
    lines = [
        f"seed {plan.seed}, {result.rounds} rounds{f', sabotage {plan.sabotage}' if plan.sabotage else ''}",
        f"{result.kills.total()} kills:",
        *_table(result.kills),
        "other faults:",
        *_table(result.hazards),
        str(result.figures),
    ]
    shown = result.violations[:20]
    for violation in shown:
        lines += ["", f"VIOLATION {violation.rule}: {violation.what}", *(f"    {line}" for line in violation.context)]
    if len(result.violations) > len(shown):
        lines.append(f"... and {len(result.violations) - len(shown)} more")
    if result.violations:
        lines.append(f"journals, logs and the bus file are kept in {work}")
    return "\n".join([*lines, f"{len(result.violations)} violations"])


def _table(counts: Counter[str]) -> list[str]:
    return [f"  {count:7} {what}" for what, count in counts.most_common()]
