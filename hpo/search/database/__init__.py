"""The database: where it is, our two tables, whose trial is whose, and what if it goes away."""
