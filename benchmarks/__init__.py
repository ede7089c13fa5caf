"""Ours beside programs everybody knows, in one run on one machine, as ratios.

Absolute figures belong to the machine they were measured on; a ratio measured by turns in the same minute
carries over. One file a benchmark; each says in a sentence what is compared.
"""
