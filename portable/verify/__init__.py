"""Whether a GGUF file is what it should be: read again, loaded, and held against its checkpoint."""

from portable.verify.accept import accepting
from portable.verify.check import Check, Verdict
from portable.verify.run import verify

__all__ = ["Check", "Verdict", "accepting", "verify"]
