"""Bits about features of natural text at every site of a model, in one pass over a corpus"""
