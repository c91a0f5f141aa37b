"""The SGLang plugin: what runs inside the engines' processes.

It imports SGLang, torch and nothing else of ours, and nothing of ours imports it: the gateway speaks to it over HTTP
alone. In an SGLang that nla-serve did not start, nothing here does anything.
"""
