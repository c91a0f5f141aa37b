"""One page about what `nla verbalize --score` wrote, or about two such runs: how faithful the texts are."""
