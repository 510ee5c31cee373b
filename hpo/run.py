"""`python -m hpo.run`: opens or resumes a study and trains its trials on this machine."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hpo import streams

EXAMPLES = """
Examples:

  python -m hpo.run --study rsicap

  python -m hpo.run --study rsicap --data ~/RSICap --trials 100 --timeout 10h

  python -m hpo.run --study rsicap --model ./my-instructblip --set model.precision=bf16

  HPO_STORAGE=postgresql://me@db/hpo python -m hpo.run --study rsicap

  python -m hpo.run --study my-study.toml --dry-run
"""

StudyOption = Annotated[str, typer.Option(help="Name of a study, or a .toml file.")]
StorageOption = Annotated[
    str | None, typer.Option(help="Database URL; else $HPO_STORAGE, else sqlite:///hpo.db.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON lines instead of text.")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Scale(StrEnum):
    """Which size of a study."""

    AUTO = "auto"
    MINI = "mini"
    FULL = "full"


@app.command(help=f"Search hyperparameters of LoRA until the study has its trials.\n{EXAMPLES}")
def run(
    study: StudyOption,
    scale: Annotated[
        Scale,
        typer.Option(help="full: as the file says; mini: its mini table; auto: full on a GPU."),
    ] = Scale.AUTO,
    name: Annotated[str | None, typer.Option(help="Name to store it under.")] = None,
    storage: StorageOption = None,
    trials: Annotated[int | None, typer.Option(help="Finished trials in all.")] = None,
    timeout: Annotated[str | None, typer.Option(help="Stop after this time: 90s, 30m, 8h.")] = None,
    runners: Annotated[str, typer.Option(help="Runner processes: auto, or a number.")] = "auto",
    pack: Annotated[
        str,
        typer.Option(help="Trials at a time on each: auto (measured; 1 with --seed), or a number."),
    ] = "auto",
    data: Annotated[str | None, typer.Option(help="Folder or file of the data.")] = None,
    model: Annotated[str | None, typer.Option(help="Directory or hub name of the base.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of sampler and trials.")] = None,
    memory_limit: Annotated[
        str | None, typer.Option(help="Memory of a runner for base and training: 2GB.")
    ] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="Override: key=value, such as trial.epochs=3.")
    ] = None,
    runs_dir: Annotated[Path, typer.Option(help="Where curves, adapters and logs go.")] = Path(
        "runs"
    ),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, show the cost, train nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Parses the options; everything else is in `hpo.entry`."""
    from hpo.entry import Request, execute  # here, so that --help answers at once

    request = Request(
        study=study,
        scale=scale.value,
        name=name,
        storage=storage,
        trials=trials,
        timeout=timeout,
        runners=runners,
        pack=pack,
        data=data,
        model=model,
        seed=seed,
        memory_limit=memory_limit,
        assignments=tuple(assign or ()),
        runs_dir=runs_dir,
        dry_run=dry_run,
        as_json=as_json,
        words=tuple(sys.argv[1:]),
    )
    raise typer.Exit(execute(request))


def main(command: typer.Typer) -> None:
    """Runs a command of this package on streams that do not end it."""
    streams.secure()
    command()


if __name__ == "__main__":
    main(app)
