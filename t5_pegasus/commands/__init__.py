"""What `t5-pegasus COMMAND` and the scripts of that stage run: flags in, one or two calls, files and lines out.

A command is a module with `main(argv) -> exit code` and a row in COMMANDS; nothing in the library imports one. For
an exported model none but `check` loads TensorFlow. Commands for training are scripts at the top of the repository.
"""

# A command's name, which is its module's, to what it does.
COMMANDS = {
    "title": "write titles",
    "score": "score titles against references",
    "compare": "compare systems that write titles, and write a report",
    "serve": "serve a model over HTTP",
    "check": "say what is wrong with the installation, or with files of pairs; the default",
}
