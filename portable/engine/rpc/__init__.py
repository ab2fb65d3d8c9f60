"""Other machines as devices, by ggml's own RPC: asked, registered, served."""
