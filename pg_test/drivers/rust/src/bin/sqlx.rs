//! sqlx: values bound and decoded by the package's types, statements prepared and cached as sqlx does.

use omen_driver_tests::{
    ROWS, Result, Rng, Value, check_answer, check_plan, main_of, nearest_sql, table_sql,
};
use pgvector::{Bit, HalfVector, SparseVector, Vector};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Decode, Encode, Executor, Postgres, Type};

async fn check<T>() -> Result
where
    T: Value + Type<Postgres> + Send + Sync + Unpin + 'static,
    T: for<'q> Encode<'q, Postgres> + for<'r> Decode<'r, Postgres>,
{
    let mut rng = Rng::from_env();
    let values: Vec<T> = (0..ROWS).map(|_| T::draw(&mut rng)).collect();
    let query = T::draw(&mut rng);
    let table = format!("x_{}", T::NAME);
    let [create_table, create_index] = table_sql::<T>(&table);
    // libpq's environment variables.
    let mut conn = PgConnection::connect_with(&PgConnectOptions::new()).await?;
    conn.execute(create_table.as_str()).await?;
    let insert = format!("INSERT INTO {table} VALUES ($1, $2)");
    for (id, value) in values.iter().enumerate() {
        sqlx::query(&insert)
            .bind(id as i32)
            .bind(value.clone())
            .execute(&mut conn)
            .await?;
    }
    conn.execute(create_index.as_str()).await?;

    let select = format!("SELECT id, embedding FROM {table} ORDER BY id");
    let stored: Vec<(i32, T)> = sqlx::query_as(&select).fetch_all(&mut conn).await?;
    assert_eq!(
        stored
            .into_iter()
            .map(|(_, value)| value)
            .collect::<Vec<_>>(),
        values
    );

    let nearest = nearest_sql::<T>(&table);
    let explain = format!("EXPLAIN {nearest}");
    let plan: Vec<(String,)> = sqlx::query_as(&explain)
        .bind(query.clone())
        .fetch_all(&mut conn)
        .await?;
    check_plan(
        &plan
            .into_iter()
            .map(|(line,)| line)
            .collect::<Vec<_>>()
            .join("\n"),
    );
    // More than five times: from then on the plan may be one for all parameters.
    for _ in 0..8 {
        let found: Vec<(i32, f64)> = sqlx::query_as(&nearest)
            .bind(query.clone())
            .fetch_all(&mut conn)
            .await?;
        check_answer(&values, &query, &found);
    }
    Ok(())
}

main_of!(check);
