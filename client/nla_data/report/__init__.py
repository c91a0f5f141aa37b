"""One page about what `nla verbalize` or `nla explain` wrote with `--score`, or about two such runs: how true it is."""
