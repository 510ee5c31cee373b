"""What a user sees: a live table on a terminal, plain lines elsewhere, JSON for machines."""

from hpo.screen.choose import choose_screen
from hpo.screen.screen import Screen

__all__ = ["Screen", "choose_screen"]
