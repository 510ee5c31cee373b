"""`python -m hpo.schema`: makes the tables in a database, before workers start on it.

`hpo.run` does it too, one process at a time; this is for a deployment that wants it done once.
"""

from typing import Annotated

import typer

from hpo.run import main

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(
    help="Make the tables of a database.\n\nExample:\n\n"
    "  HPO_STORAGE=postgresql://me@db/hpo python -m hpo.schema"
)
def schema(
    storage: Annotated[str | None, typer.Option(help="Database URL; else $HPO_STORAGE.")] = None,
) -> None:
    """Parses the option; everything else is in `make_tables`."""
    from hpo.guard import guarded  # here, so that --help answers at once

    raise typer.Exit(guarded(lambda: make_tables(storage), as_json=False, storage=storage))


def make_tables(storage: str | None) -> int:
    """Makes Optuna's tables and ours, unless they are there; the exit code.

    Raises:
        HpoError: the database cannot be used.
    """
    from hpo.search.database.redaction import redacted
    from hpo.search.database.storage import connect, exclusive, translated
    from hpo.search.database.tables import create
    from hpo.search.database.urls import chosen, parse_url

    url = parse_url(chosen(storage))
    with translated(url):
        engine = connect(url).engine
        with exclusive(url):
            create(engine)
    print(f"tables are there in {redacted(url)}")
    return 0


if __name__ == "__main__":
    main(app)
