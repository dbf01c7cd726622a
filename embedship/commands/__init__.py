"""Commands: the command line, and the commands that need no other folder.

demo.py            `embedship demo`
guide.py           Examples, next steps, and how to go on after Ctrl-C
main.py            The command line: finds and runs a command
options.py         Makes a command from an options dataclass; options that many commands have
shared_options.py  Options that all commands have: --quiet, --verbose, short letters
sign.py            `embedship sign`
transfer.py        `embedship push` and `embedship pull`
tune.py            `embedship tune`
verify.py          `embedship verify`
"""
