"""`python -m hpo.score`: how well the best trials of a study answer, once it has been run."""

from pathlib import Path
from typing import Annotated

import typer

from hpo.run import JsonOption, Scale, StorageOption, StudyOption, main

EXAMPLES = """
Examples:

  python -m hpo.score --study rsicap

  python -m hpo.score --study rsicap --data ~/RSICap --best 1 --json
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(
    help="Let the best trials of a study answer all validation samples, and score the answers.\n"
    f"{EXAMPLES}"
)
def score(
    study: StudyOption,
    best: Annotated[int, typer.Option(help="How many trials, the best first.")] = 3,
    scale: Annotated[Scale, typer.Option(help="As the study was run.")] = Scale.AUTO,
    name: Annotated[str | None, typer.Option(help="Name that it is stored under.")] = None,
    storage: StorageOption = None,
    data: Annotated[str | None, typer.Option(help="As the study was run.")] = None,
    model: Annotated[str | None, typer.Option(help="As the study was run.")] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="As the study was run: key=value.")
    ] = None,
    runs_dir: Annotated[Path, typer.Option(help="Where its adapters are.")] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Parses the options; everything else is in `hpo.entry`."""
    from hpo.entry import ScoreRequest, execute_score  # here, so that --help answers at once

    request = ScoreRequest(
        study=study,
        best=best,
        scale=scale.value,
        name=name,
        storage=storage,
        data=data,
        model=model,
        assignments=tuple(assign or ()),
        runs_dir=runs_dir,
        as_json=as_json,
    )
    raise typer.Exit(execute_score(request))


if __name__ == "__main__":
    main(app)
