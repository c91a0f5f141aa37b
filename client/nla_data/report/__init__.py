"""One page about an output of `nla verbalize --score`: how faithful its explanations are, and by which denominator."""
