"""The contract's endpoints as pure values: what to send and how to read the answer. No I/O."""
