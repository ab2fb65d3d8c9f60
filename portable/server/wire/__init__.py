"""The wire formats: requests as checked structs, one home a field; knows no HTTP."""
