"""Text of a page that a command writes, between markers that name it."""


def replaced(page, name, text):
    """A page with other text between the markers of that name.

    Raises:
        ValueError: the page lacks a marker.
    """
    begin, end = (f"<!-- {name}: {word} -->" for word in ("begin", "end"))
    head, found, rest = page.partition(begin)
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"the page has no lines {begin} and {end}")
    return f"{head}{begin}\n\n{text}\n\n{end}{tail}"
