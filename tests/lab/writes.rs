//! A client that writes in a loop through HAProxy and remembers every acknowledged row.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Config, NoTls};

use crate::world::{World, until};

/// Writes keep flowing for this long after a change, so that a late interruption is seen too.
pub const SETTLED_WRITES: usize = 50;

/// What was written, and when.
pub struct Written {
    pub acknowledged: Vec<(i64, Instant)>,
    pub errors: usize,
}

impl Written {
    /// Returns the longest time between two acknowledged writes.
    pub fn longest_gap(&self) -> Duration {
        let pairs = self.acknowledged.iter().zip(self.acknowledged.iter().skip(1));
        pairs.map(|(a, b)| b.1 - a.1).max().unwrap_or_default()
    }
}

pub struct WriteLoop {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: JoinHandle<Written>,
    table: &'static str,
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Returns how to reach a host's port as the superuser.
pub fn config(world: &World, host: &str, port: u16) -> Result<Config, String> {
    let mut config = Config::new();
    let address = world.address(host)?.parse().map_err(|error| format!("{host}: {error}"))?;
    config
        .hostaddr(address)
        .port(port)
        .user("postgres")
        .dbname("postgres")
        .password(world.secret("keddah_superuser_password")?)
        .connect_timeout(Duration::from_secs(2));
    Ok(config)
}

/// Runs one statement and returns the first column of its rows as text.
pub fn query(config: &Config, statement: &str) -> Result<Vec<String>, String> {
    let run = async {
        let client = connect(config).await?;
        client.simple_query(statement).await
    };
    let messages = runtime().block_on(run).map_err(|error| format!("{statement}: {error}"))?;
    let text = |message: &tokio_postgres::SimpleQueryMessage| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    };
    Ok(messages.iter().filter_map(text).collect())
}

impl WriteLoop {
    /// Begins to write through a proxy's read-write port; returns once the first row is acknowledged.
    pub fn start(world: &World, table: &'static str) -> Result<WriteLoop, String> {
        let config = config(world, "proxy1", 5000)?;
        let create = format!(
            "create table if not exists {table} (n bigint primary key, at timestamptz default now())"
        );
        until(Duration::from_secs(30), || query(&config, &create).ok())
            .ok_or_else(|| format!("no table `{table}` could be made through proxy1:5000 within 30 s"))?;
        let (stop, count) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let thread = std::thread::spawn({
            let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
            move || runtime().block_on(write(config, table, stop, count))
        });
        let writes = WriteLoop { stop, count, thread, table };
        writes.go_on(1)?;
        Ok(writes)
    }

    /// Waits until so many more rows are acknowledged.
    pub fn go_on(&self, rows: usize) -> Result<(), String> {
        let wanted = self.count.load(Ordering::Relaxed) + rows;
        until(Duration::from_secs(60), || (self.count.load(Ordering::Relaxed) >= wanted).then_some(()))
            .ok_or_else(|| format!("{rows} more rows of `{}` were not acknowledged within 60 s", self.table))
    }

    /// Ends the loop and checks that every acknowledged row is there.
    pub fn finish(self, world: &World) -> Result<Written, String> {
        self.stop.store(true, Ordering::Relaxed);
        let written = self.thread.join().map_err(|_| "the writer panicked".to_owned())?;
        let config = config(world, "proxy1", 5000)?;
        let statement = format!("select n from {} order by n", self.table);
        let rows = until(Duration::from_secs(30), || query(&config, &statement).ok())
            .ok_or("the rows cannot be read back through proxy1:5000")?;
        let rows: std::collections::BTreeSet<i64> = rows.iter().filter_map(|row| row.parse().ok()).collect();
        let lost: Vec<i64> =
            written.acknowledged.iter().map(|(n, _)| *n).filter(|n| !rows.contains(n)).collect();
        if lost.is_empty() {
            Ok(written)
        } else {
            Err(format!("{} acknowledged rows are lost: {lost:?}", lost.len()))
        }
    }
}

async fn write(
    config: Config,
    table: &'static str,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
) -> Written {
    let mut written = Written { acknowledged: Vec::new(), errors: 0 };
    let mut client: Option<Client> = None;
    let mut n: i64 = 0;
    let statement = format!("insert into {table} (n) values ($1)");
    while !stop.load(Ordering::Relaxed) {
        if client.as_ref().is_none_or(Client::is_closed) {
            client = tokio::time::timeout(Duration::from_secs(2), connect(&config))
                .await
                .ok()
                .and_then(Result::ok);
        }
        let Some(open) = &client else {
            written.errors += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        n += 1;
        match tokio::time::timeout(Duration::from_secs(3), open.execute(&statement, &[&n])).await {
            Ok(Ok(_)) => {
                written.acknowledged.push((n, Instant::now()));
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Err(_)) | Err(_) => {
                written.errors += 1;
                client = None;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    written
}
