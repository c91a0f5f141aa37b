"""One page about what `nla verbalize --score` wrote, or about two runs: how faithful explanations are, by which measure."""
