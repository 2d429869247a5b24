"""What `t5-pegasus COMMAND` and the scripts of that stage run: flags in, one or two calls, files and lines out.

A command is a module with `main(argv) -> exit code` and a row in COMMANDS; nothing in the library imports one. None of
these loads TensorFlow for a model that is exported. Commands for training are scripts at the top of the repository.
"""

# A command's name to its module and what it does.
COMMANDS = {
    "title": ("title", "write titles"),
    "score": ("score", "score titles against references"),
    "serve": ("serve", "serve a model over HTTP"),
    "check": ("check", "say which versions are installed and what is wrong with them"),
}
