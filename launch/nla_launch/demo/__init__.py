"""The demo pair: SmolLM2-135M-Instruct, read after block 20. `README.md` says what it can do.

`verbalizer/` and `reconstructor/` hold what was trained: LoRA adapters, and the value head. `joining.py` puts them and
the base model, which is a package of its own, together to checkpoints (`nla_launch.pair.made` has it do so at the first
start). The other modules trained and measured them; the training needs the extra `dev`.
"""
