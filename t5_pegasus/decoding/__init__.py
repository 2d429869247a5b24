"""From steps of an engine to titles: the search, the constraints on tokens, the inputs of the encoder.

A new search, constraint or way to read a long text comes in here. It is numpy only and knows no network: whoever
computes a step is handed in (see `search.Engine`).
"""
