"""What a check has found, in a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["ok", "note", "attention"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found; ``remedy`` says what to do, where anything is to be done."""

    side: Literal["PostgreSQL", "NATS", "settings"]
    check: str
    level: Level
    said: str
    remedy: str | None = None


def needs_attention(findings: Sequence[Finding]) -> bool:
    """Tell whether anything is to be done."""
    return any(finding.level == "attention" for finding in findings)


def to_text(findings: Sequence[Finding]) -> str:
    """Return them for people, a line each."""
    lines: list[str] = []
    width = max((len(finding.check) for finding in findings), default=0)
    for side in dict.fromkeys(finding.side for finding in findings):
        lines += [side, *(_line(one, width) for one in findings if one.side == side)]
    count = sum(finding.level == "attention" for finding in findings)
    checks, need = ("checks", "need") if count > 1 else ("check", "needs")
    lines.append(f"{count} {checks} {need} attention" if count else "nothing needs attention")
    return "\n".join(lines)


def _line(finding: Finding, width: int) -> str:
    mark = {"ok": "ok", "note": "note", "attention": "!"}[finding.level]
    said = f"{finding.said}; {finding.remedy}" if finding.remedy else finding.said
    return f"  {mark:4}  {finding.check:{width}}  {said}"


def to_json(findings: Sequence[Finding]) -> str:
    """Return them for machines."""
    values = {
        "needs_attention": needs_attention(findings),
        "checks": [asdict(finding) for finding in findings],
    }
    return json.dumps(values, indent=2, ensure_ascii=False)
