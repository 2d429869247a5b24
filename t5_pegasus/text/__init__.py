"""Text to token ids and back: words, sentences, vocabularies, the tokenizer.

A new tokenizer is a module here. Nothing here knows a network, and nothing imports TensorFlow.
"""
