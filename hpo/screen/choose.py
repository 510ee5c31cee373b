"""Which screen suits."""

import sys

from rich.console import Console

from hpo.screen.jsonl import JsonScreen
from hpo.screen.live import LiveScreen
from hpo.screen.plain import PlainScreen
from hpo.screen.screen import Screen


def choose_screen(*, as_json: bool, trials: int) -> Screen:
    """JSON if asked for, a live table on a terminal, plain lines elsewhere."""
    if as_json:
        return JsonScreen(sys.stdout)
    console = Console(soft_wrap=True, highlight=False)
    return LiveScreen(console, trials) if console.is_terminal else PlainScreen(console, trials)
