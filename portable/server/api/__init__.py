"""The endpoints: each reads its wire format, and lays its answers out in it."""
