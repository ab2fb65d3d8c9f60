"""`portable doctor`: what this machine has for running models, what is wrong, and what mends it.

    examine(offline=False)  ->  Report(findings, build, wheel)

Each module looks at one thing: it gathers facts, and a pure function turns them into findings.
"""

from __future__ import annotations

from portable.doctor.finding import Finding
from portable.doctor.report import Report, examine

__all__ = ["Finding", "Report", "examine"]
