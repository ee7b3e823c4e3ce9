"""Measured landscapes as a world without GPUs: an engine, a deployer and a load generator that replay them."""
