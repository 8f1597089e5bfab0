"""Names of tasks as names of files."""

import hashlib
from urllib.parse import quote

MAX_LENGTH = 120
"""Characters of a file's name without its suffix. Most file systems allow 255 bytes."""


def file_name(task: str) -> str:
    """A name for the files or the folder of a task. It never leaves the folder that it is put into.

    Latin letters, digits and ``_ . - ~`` stay as they are; other characters become ``%`` and two hexadecimal digits for
    each byte of UTF-8, as in a URL. Plain names such as ``"plate-slide"`` are unchanged. Different tasks have different
    names. The name cannot always be turned back into the task, so store the task inside the file.

    Args:
        task: any text, such as ``"pick up the cup/left"``.

    Returns:
        A name of 1 to 120 characters, without separators, that does not begin with a dot.
    """
    name = quote(task, safe="", errors="surrogatepass")
    if name.startswith("."):  # "." and "..", and names of hidden files
        name = f"%2E{name[1:]}"
    if len(name) > MAX_LENGTH:
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        name = f"{name[: MAX_LENGTH - 18]}%-{digest}"
    return name or "%"
