"""The door: `backupdr …`. Whatever goes wrong ends as one sentence and an exit code, never as a traceback.

Exit codes: 0 = all that was asked is true; 1 = it was tried and did not (fully) succeed; 2 = the question or a
setting cannot be used; 130 = stopped by Ctrl-C.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

STOPPED = "Stopped; what was received so far is kept, and the next run takes the rest."


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(run(given))


def run(given: list[str]) -> int:
    """Run one command and return its exit code."""
    from typer.exceptions import Abort, Exit, TyperException

    from cli.app import command

    try:
        result = command()(args=given, prog_name="backupdr", standalone_mode=False)
    except Exit as end:
        return end.exit_code
    except (KeyboardInterrupt, Abort):
        return _failed(given, STOPPED, 130)
    except TyperException as error:
        return _failed(given, _usage_sentence(error.format_message()), 2)
    except BrokenPipeError:  # the reader of our output left (`| head`)
        return 1
    except Exception as error:  # noqa: BLE001 - here every error becomes a sentence
        return _failed(given, *_sentence(error))
    return result if isinstance(result, int) else 0


def _sentence(error: Exception) -> tuple[str, int]:
    from vna.errors import BackupError, SettingsError

    if isinstance(error, SettingsError):
        return str(error), 2
    if isinstance(error, BackupError):
        return str(error), 1
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}.", 1
    return f"Something unexpected happened ({type(error).__name__}){_kept(error)}.", 1


def _kept(error: Exception) -> str:
    from vna.errors import where_it_happened
    from vna.settings import home_folder

    path: Path = home_folder() / "logs" / "errors.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{where_it_happened(error)}\n")
    except OSError:
        return ""
    return f"; the details are in {path}"


def _usage_sentence(message: str) -> str:
    """What the option parser says, in words that need no programmer; the help as it is."""
    if message.startswith("Usage:"):
        return message
    text = " ".join(message.split()) or "What is wanted? See backupdr --help."
    found = re.fullmatch(r"Invalid value for '?(.+?)'?: (.+?)\.?", text)
    if found is not None:
        from vna.settings import plain_finding

        text = f"{found[1]}: {plain_finding(found[1], found[2])}"
    return text if text.endswith((".", "?")) else f"{text}."


def _failed(given: list[str], sentence: str, code: int) -> int:
    from cli.console import failure, show, warn

    warn(sentence)
    if "--json" in given:
        words = [word for word in given if not word.startswith("-")]
        show(failure(" ".join(words[: 2 if words[:1] in (["remote"], ["unit"]) else 1]), sentence))
    return code


if __name__ == "__main__":
    main()
