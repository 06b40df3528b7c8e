"""The command line: ``inversionview COMMAND``. A user's error is one sentence on stderr."""

from __future__ import annotations

from inversionview.core import interruption

ORDER = [
    *("read", "walk", "search", "sites", "path", "demo"),
    *("train", "train-probed", "bank", "evaluate"),
    *("recover", "inform", "truth", "bits", "complete", "threshold", "latents", "calibrate", "agree"),
    *("patch", "ablate", "flow", "dla", "heads", "recall", "interpret", "judge"),
    *("explore", "export"),
]
"""In which ``--help`` lists the commands; others come after."""

with interruption.importing(__name__):  # what takes long
    import os
    import sys
    import warnings
    from importlib import import_module
    from pathlib import Path
    from typing import TextIO

    import typer
    from typer.exceptions import TyperException

    from inversionview.core.errors import InversionViewError, LeftOut
    from inversionview.core.memory import out_of_memory
    from inversionview.core.printable import shown
    from inversionview.terminal.app import app, err, list_as
    from inversionview.terminal.mistakes import sentence
    from inversionview.terminal.output import begin_in_utf8, closed, drop, fail, prepare

    ROOT = Path(__file__).parent
    for path in sorted(ROOT.glob("*/**/*command.py")):
        import_module(".".join(("inversionview", *path.relative_to(ROOT).with_suffix("").parts)))
    list_as(ORDER)

# threads that spin while they wait for one another take the cores from other processes; read when torch is first imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's error is one sentence on stderr and exit code 2, an interruption one and 130."""
    if arguments is None:
        begin_in_utf8()
    prepare()
    warnings.showwarning = _warn
    try:
        with interruption.working():
            if app(args=arguments, standalone_mode=False) == interruption.INTERRUPTED:  # how typer reports Ctrl-C
                raise KeyboardInterrupt
            sys.stdout.flush()
    except InversionViewError as error:
        fail(str(error))
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # help was already printed
            return
        said = getattr(error, "format_message", error.__str__)()
        fail(sentence(said, sys.argv[1:] if arguments is None else arguments))
    except (KeyboardInterrupt, typer.Abort):
        fail(interruption.sentence(), interruption.INTERRUPTED)
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
        fail(f"{what} ({error.strerror or error}).")
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        fail("There is not enough memory for that: ask for less, such as fewer candidates, queries, inputs or chains.")


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print what was left out as the sentence that it is, any other warning with where it comes from."""
    if issubclass(category, LeftOut):
        err.print(str(message), soft_wrap=True)
    else:
        (file or sys.stderr).write(shown(warnings.formatwarning(message, category, filename, lineno, line)))


if __name__ == "__main__":
    main()
