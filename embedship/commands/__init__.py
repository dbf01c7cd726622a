"""Commands: the command line, and the commands that need no other folder.

demo.py      `embedship demo`
main.py      The command line: finds and runs a command
options.py   Makes a command from an options dataclass; options that many commands have
sign.py      `embedship sign`
transfer.py  `embedship push` and `embedship pull`
tune.py      `embedship tune`
verify.py    `embedship verify`
"""
