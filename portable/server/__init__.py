"""HTTP and the OpenAI wire format; knows no llama.cpp: each model runs in a child process."""
