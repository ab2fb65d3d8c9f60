"""How models write thoughts and tool calls: one small module a way; knows no HTTP and no engine."""
