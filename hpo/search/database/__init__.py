"""The database: its URL, our two tables, whose trial is whose, and what if it goes away."""
