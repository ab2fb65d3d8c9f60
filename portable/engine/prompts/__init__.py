"""Prefixes that outlive the process: which, in what files, and when."""
