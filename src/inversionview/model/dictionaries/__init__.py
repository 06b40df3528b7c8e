"""Sparse dictionaries (SAEs and transcoders) of four libraries, as one kind of object"""
