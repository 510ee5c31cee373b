"""What readers say of data that is wrong."""

import pytest


def sentence(read, kind):
    """The one sentence that reading ends with."""
    with pytest.raises(kind) as caught:
        read()
    text = str(caught.value)
    assert "Traceback" not in text and "\n" not in text
    return text
