"""The states of an engine, as a gateway sees it. Failed: its self-test. Hung: it lives, and nothing comes of it."""

from typing import Literal

EngineState = Literal["starting", "ready", "restarting", "hung", "failed"]
