"""What a conversion did to a model, as one HTML page or as JSON."""

from portable.report.summary import Summary
from portable.report.write import check, write

__all__ = ["Summary", "check", "write"]
