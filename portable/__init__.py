"""Your own language model on your own machine, on llama.cpp and without torch."""

__version__ = "0.1.0"
