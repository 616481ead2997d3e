"""`python -m lenticular.cli`."""

from . import main

main(prog_name="lenticular")
