"""What of a model goes where: sizes and free memory -> a plan, and the reason in words. Pure."""
