"""The plans of what SQLAlchemy sends: it has no call for that."""

from sqlalchemy import event


def record_plans(engine) -> list[str]:
    """A list to which the plan of each ordered query that `engine` sends from now on is added, explained with its own parameters."""
    plans = []

    @event.listens_for(engine, "before_cursor_execute")
    def explain(conn, cursor, statement, parameters, context, executemany):
        if "ORDER BY" in statement:
            with conn.connection.cursor() as beside:
                plans.append("\n".join(line for line, in beside.execute("EXPLAIN " + statement, parameters).fetchall()))

    return plans
