"""Commands.

demo.py      The verb `demo`
main.py      The one command
sign.py      The verb `sign`
transfer.py  The verbs `push` and `pull`
tune.py      The verb `tune`
verify.py    The verb `verify`
"""
