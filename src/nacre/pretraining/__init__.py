"""A tiny language model from scratch, on any text: what is behind ``nacre pretrain``.

It exists for two reasons: the demo's embedded model can be made again by anyone, and experiments on small machines
have a host whose every training text is known. It is no way to a good general model.
"""
