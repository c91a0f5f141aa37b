"""The gateway: a stateless FastAPI app between users and the SGLang engines.

It knows the contract, the sidecars and the tokenizers; of the engines it knows their HTTP addresses and nothing else.
"""
