"""`nla-serve`: from a preset to engines and a gateway, and back to nothing at the end."""
