"""`python -m hpo.schema`: makes the tables in a database, before workers start on it.

`hpo.run` does it too, one process at a time; this is for a deployment that wants it done once.
"""

from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(
    help="Make the tables of a database.\n\nExample:\n\n"
    "  HPO_STORAGE=postgresql://me@db/hpo python -m hpo.schema"
)
def schema(
    storage: Annotated[str | None, typer.Option(help="Database URL; else $HPO_STORAGE.")] = None,
) -> None:
    """Makes the tables."""
    from hpo.errors import HpoError
    from hpo.search.database.redaction import redacted
    from hpo.search.database.storage import connect, exclusive, translated
    from hpo.search.database.tables import create
    from hpo.search.database.urls import chosen, parse_url

    try:
        url = parse_url(chosen(storage))
        with translated(url):
            engine = connect(url).engine
            with exclusive(url):
                create(engine)
    except HpoError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"tables are there in {redacted(url)}")


if __name__ == "__main__":
    app()
