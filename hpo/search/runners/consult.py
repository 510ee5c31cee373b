"""Questions to one runner, outside of any search: what trials would cost, how well one answers."""

from collections.abc import Generator, Sequence
from pathlib import Path

from hpo.errors import HpoError
from hpo.placement import Placement
from hpo.protocol import Command, Event, Ready
from hpo.search.runners.pool import Pool
from hpo.search.runners.process import Death
from hpo.specs import StudySpec


def consult(
    study: StudySpec, placement: Placement, runs_dir: Path, commands: Sequence[Command]
) -> Generator[Event]:
    """What a runner says to these commands, after Ready; it ends when the iteration does.

    Raises:
        HpoError: the base or the data cannot be loaded, or the runner died.
    """
    pool = Pool(study, placement.only_first(), runs_dir, zero_shot_known=True)
    pool.start()
    try:
        while True:
            for slot, event in pool.poll(1.0):
                if isinstance(event, Death):
                    raise HpoError(f"the runner died ({event.how}): {event.log}")
                if isinstance(event, Ready):
                    for command in commands:
                        slot.process.send(command)
                yield event
    finally:
        pool.close()
