"""From steps of an engine to titles: the search, the constraints on tokens, the inputs of the encoder.

A new search, constraint or way to read a long text is a function here. It is numpy only and knows no network: whatever
computes a step is passed in (see `search.Engine`).
"""
