//! tokio-postgres, which speaks binary: statements, prepared or not, and COPY both ways.

use std::pin::pin;

use futures_util::TryStreamExt;
use omen_driver_tests::{
    ROWS, Result, Rng, Value, check_answer, check_plan, main_of, nearest_sql, table_sql,
};
use pgvector::{Bit, HalfVector, SparseVector, Vector};
use tokio_postgres::binary_copy::{BinaryCopyInWriter, BinaryCopyOutStream};
use tokio_postgres::types::{FromSqlOwned, ToSql, Type};
use tokio_postgres::{Client, Config, NoTls};

async fn connect() -> Result<Client> {
    let variable = |name| std::env::var(name);
    let (client, connection) = Config::new()
        .host(variable("PGHOST")?)
        .port(variable("PGPORT")?.parse()?)
        .user(variable("PGUSER")?)
        .dbname(variable("PGDATABASE")?)
        .connect(NoTls)
        .await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn check<T: Value + ToSql + FromSqlOwned + Sync>() -> Result {
    let mut rng = Rng::from_env();
    let values: Vec<T> = (0..ROWS).map(|_| T::draw(&mut rng)).collect();
    let query = T::draw(&mut rng);
    let table = format!("t_{}", T::NAME);
    let [create_table, create_index] = table_sql::<T>(&table);
    let client = connect().await?;
    client.batch_execute(&create_table).await?;
    let (inserted, copied) = values.split_at(ROWS / 4);
    let insert = format!("INSERT INTO {table} VALUES ($1, $2)");
    for (id, value) in inserted.iter().enumerate() {
        client.execute(&insert, &[&(id as i32), value]).await?;
    }

    let select = client
        .prepare(&format!("SELECT id, embedding FROM {table} ORDER BY id"))
        .await?;
    let types = [Type::INT4, select.columns()[1].type_().clone()];
    let sink = client
        .copy_in(&format!("COPY {table} FROM STDIN (FORMAT binary)"))
        .await?;
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
    for (at, value) in copied.iter().enumerate() {
        let id = (inserted.len() + at) as i32;
        writer.as_mut().write(&[&id, value]).await?;
    }
    assert_eq!(writer.finish().await?, copied.len() as u64);
    client.batch_execute(&create_index).await?;

    let stored: Vec<T> = client
        .query(&select, &[])
        .await?
        .iter()
        .map(|row| row.get(1))
        .collect();
    assert_eq!(stored, values);
    let stream = client
        .copy_out(&format!(
            "COPY (SELECT * FROM {table} ORDER BY id) TO STDOUT (FORMAT binary)"
        ))
        .await?;
    let copied_out: Vec<_> = pin!(BinaryCopyOutStream::new(stream, &types))
        .try_collect()
        .await?;
    assert_eq!(
        copied_out
            .iter()
            .map(|row| row.get::<T>(1))
            .collect::<Vec<_>>(),
        values
    );

    let nearest = nearest_sql::<T>(&table);
    let plan = client
        .query(&format!("EXPLAIN {nearest}"), &[&query])
        .await?;
    check_plan(
        &plan
            .iter()
            .map(|row| row.get::<_, String>(0))
            .collect::<Vec<_>>()
            .join("\n"),
    );
    let statement = client.prepare(&nearest).await?;
    // More than five times: from then on the plan may be one for all parameters.
    for _ in 0..8 {
        let found = client.query(&statement, &[&query]).await?;
        check_answer(
            &values,
            &query,
            &found
                .iter()
                .map(|row| (row.get(0), row.get(1)))
                .collect::<Vec<_>>(),
        );
    }
    Ok(())
}

main_of!(check);
