"""`logitstore demo`: a real teacher, a store, and two students in a few minutes."""

from logitstore.demo.options import DemoOptions, DemoResult
from logitstore.demo.run import run_demo

__all__ = ["DemoOptions", "DemoResult", "run_demo"]
