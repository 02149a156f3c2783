"""Triton kernels of logitstore; they import torch and triton only."""
