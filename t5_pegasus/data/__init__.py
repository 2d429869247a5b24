"""Files to records and back: pairs, documents, predictions; and what turns documents into pairs for pretraining.

A new file format, cleaning rule or choice of gap sentences comes in here, in `runners/` a new way to run the work.
Nothing here imports TensorFlow.
"""
