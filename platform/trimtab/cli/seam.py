"""Where errors end, for `trimtab` and for `jobs/*.py` alike.

What a user can mend is one message without a traceback and exit code 2. Ctrl-C is one line that
says how to go on, and exit code 130. Anything else is a bug and keeps its traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.text import Text

from trimtab.cli.console import ERR
from trimtab.core.errors import TrimtabError

USER_ERROR: Final = 2
INTERRUPTED: Final = 130


@contextmanager
def guarded() -> Iterator[None]:
    """Ends the process as the module says; also a decorator: `@guarded()`.

    Raises:
        SystemExit: with 2 or 130.
    """
    try:
        yield
    except TrimtabError as error:
        # A Text, because a message may hold brackets that rich would take for its markup.
        ERR.print(Text.assemble(("error: ", "bold red"), str(error)), soft_wrap=True)
        raise SystemExit(USER_ERROR) from None
    except KeyboardInterrupt:
        ERR.print("Stopped. What is finished is kept: run the same command again to resume.")
        raise SystemExit(INTERRUPTED) from None
