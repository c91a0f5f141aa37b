"""`nla-serve`: from a preset to two engines and a gateway, and back to nothing at the end."""
