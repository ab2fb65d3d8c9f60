"""What a model does to a text: importance matrix, perplexity, divergence."""

from portable.measure.chunks import read_text
from portable.measure.imatrix import make_imatrix
from portable.measure.perplexity import evaluate, too_large_together

__all__ = ["evaluate", "make_imatrix", "read_text", "too_large_together"]
