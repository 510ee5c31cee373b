"""How long this process has seen something unchanged, by its own clock alone."""

from collections.abc import Callable, Hashable, Mapping

GAP_S = 15.0  # between two looks; after a longer one nobody knows what happened meanwhile


class Sightings:
    """Ages of things that are looked at again and again."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._since: dict[int, tuple[Hashable, float]] = {}
        self._looked = float("-inf")

    def ages(self, found: Mapping[int, Hashable]) -> dict[int, float]:
        """Seconds that each has been as it is now, over looks without a gap.

        After an outage of the database, or a pause of this process, all ages start anew: others
        could not renew what they hold while the database was away.
        """
        now = self._monotonic()
        if now - self._looked > GAP_S:
            self._since.clear()
        self._looked = now
        self._since = {
            key: (state, self._since[key][1])
            if key in self._since and self._since[key][0] == state
            else (state, now)
            for key, state in found.items()
        }
        return {key: now - since for key, (_, since) in self._since.items()}

    def forget(self) -> None:
        """Starts anew: what was seen may have changed unseen."""
        self._since.clear()
