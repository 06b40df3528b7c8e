"""The command line: ``inversionview COMMAND``. A user's error is one sentence on stderr."""

from __future__ import annotations

import os
import sys

import typer
from typer.exceptions import TyperException

# isort: off
from inversionview.commands import reading as reading  # in the order in which --help lists them
from inversionview.commands import making as making
from inversionview.commands import telling as telling
from inversionview.commands import intervening as intervening
from inversionview.commands import attributing as attributing
from inversionview.commands import heading as heading
from inversionview.commands import recalling as recalling
from inversionview.commands import interpreting as interpreting
from inversionview.commands import exploring as exploring
from inversionview.commands import exporting as exporting

# isort: on
from inversionview.commands.shared import app
from inversionview.commands.terminal import closed, drop, fail, prepare
from inversionview.errors import InversionViewError
from inversionview.memory import out_of_memory

# threads that spin while they wait for one another take the cores from other processes; read when torch is first imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's error is one sentence on stderr and exit code 2."""
    prepare()
    try:
        if app(args=arguments, standalone_mode=False) == 130:  # how typer reports Ctrl-C
            raise KeyboardInterrupt
        sys.stdout.flush()
    except InversionViewError as error:
        _fail(str(error))
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # help was already printed
            return
        said = getattr(error, "format_message", error.__str__)()
        _fail(f"{said.rstrip('.')}. See inversionview --help.")
    except (KeyboardInterrupt, typer.Abort):
        _fail("Interrupted: what was checkpointed stands, and the same command goes on from there.")
    except BrokenPipeError:
        closed()
    except SystemExit as error:
        if error.code == 1:  # so rich ends where the reader of the output has gone, and nothing else does
            closed()
        raise
    except OSError as error:
        if not error.filename:
            drop(sys.stdout)
        what = f"{error.filename} could not be read or written" if error.filename else "The output could not be written"
        _fail(f"{what} ({error.strerror or error}).")
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        _fail("There is not enough memory for that: ask for less, such as fewer candidates, queries, inputs or chains.")


def _fail(sentence: str) -> None:
    fail(sentence)


if __name__ == "__main__":
    main()
