"""Whether the home folder can be used, before anything is written to it."""

import os
import tempfile
from pathlib import Path

from vna.errors import SettingsError
from vna.settings import Settings


def check_home(settings: Settings) -> None:
    """Make it where it is not there yet, and write in it; raises `SettingsError`."""
    home = settings.home
    try:
        home.mkdir(parents=True, exist_ok=True)
        write_in(home)
    except (FileExistsError, NotADirectoryError):
        raise SettingsError(f"The home {home} is not a folder; set BACKUPDR_HOME to one.") from None
    except OSError as error:
        raise SettingsError(f"The home {home} cannot be written ({error.strerror}).") from None


def write_in(folder: Path) -> None:
    """Write and sync a file there that nobody sees; raises `OSError`."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"backupdr check")
        file.flush()
        os.fsync(file.fileno())
