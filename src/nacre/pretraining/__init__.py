"""A tiny language model from scratch, on any text: the code behind `nacre pretrain`.

It exists for two reasons: the demo's embedded model can be made again by anyone, and experiments on small machines
have a host whose every training text is known. It does not make a good general model.
"""
