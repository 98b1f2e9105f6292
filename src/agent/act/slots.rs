//! Replication slots by SQL. What may take long (a logical slot waits for open transactions, and decodes what it skips)
//! is done beside the loop, one round at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::agent::act::postgres::{ServerError, Site, session};
use crate::agent::instance::Instance;
use crate::agent::view::OldestWal;
use crate::cluster::slot::SlotKind;
use crate::cluster::{Lsn, MemberName};
use crate::contract::config::Credentials;
use crate::postgres::query::{QueryError, Session, Target, connect};
use crate::postgres::slots;
use crate::sys::clock;

/// The longest that one logical slot may take to be made or moved on.
const LOGICAL_LIMIT: Duration = Duration::from_secs(60);

/// The longest that the leader may take to give the state of its logical slots: the loop waits for it.
const FETCH_LIMIT: Duration = Duration::from_millis(1_500);

/// Drops, makes and moves slots of the running server.
pub(super) async fn keep(
    create: &BTreeMap<String, SlotKind>,
    drop: &BTreeSet<String>,
    advance: &BTreeMap<String, (SlotKind, Lsn)>,
    site: &Site<'_>,
) -> Result<(), ServerError> {
    let session = session(site)?;
    for name in drop {
        if slots::drop_idle(&session, name).await? {
            tracing::info!(slot = name, "a slot is dropped");
        } else {
            tracing::info!(slot = name, "a slot that should go is in use; it is tried again");
        }
    }
    let mut logical = Vec::new();
    for (name, kind) in create {
        match kind {
            SlotKind::Physical => slots::create_physical(&session, name).await?,
            SlotKind::Logical { database, plugin } => {
                logical.push((database.clone(), name.clone(), Work::Create { plugin: plugin.clone() }));
            }
        }
    }
    let mut physical = Vec::new();
    for (name, (kind, lsn)) in advance {
        match kind {
            SlotKind::Physical => physical.push(advance_physical(&session, name, *lsn)),
            SlotKind::Logical { database, .. } => {
                logical.push((database.clone(), name.clone(), Work::Advance { lsn: *lsn }));
            }
        }
    }
    // Together: the statements share their way there and back.
    futures_util::future::join_all(physical).await;
    if !logical.is_empty() {
        beside_the_loop(logical, site);
    }
    Ok(())
}

async fn advance_physical(session: &Session, name: &str, lsn: Lsn) {
    if let Err(error) = slots::advance(session, name, lsn).await {
        tracing::warn!(slot = name, error = %crate::sys::chain(&error), "a slot is not moved on");
    }
}

/// What is done to one logical slot.
enum Work {
    Create { plugin: String },
    Advance { lsn: Lsn },
}

fn beside_the_loop(work: Vec<(String, String, Work)>, site: &Site<'_>) {
    // A round that is still under way will be followed by another look.
    let Ok(turn) = site.observer.logical_slots.clone().try_lock_owned() else { return };
    let target = site.instance.target("Patroni slots");
    tokio::spawn(async move {
        for (database, name, work) in work {
            if let Err(error) = one(&target, database, &name, work).await {
                tracing::warn!(slot = name, error = %crate::sys::chain(&error), "a logical slot is not as it should be");
            }
        }
        drop(turn);
    });
}

async fn one(target: &Target, database: String, name: &str, work: Work) -> Result<(), QueryError> {
    let session = connect(&Target { database, ..target.clone() }).await?;
    match work {
        Work::Create { plugin } => slots::create_logical(&session, name, &plugin, LOGICAL_LIMIT).await,
        Work::Advance { lsn } => match slots::advance_logical(&session, name, lsn, LOGICAL_LIMIT).await {
            // What it needs is gone here: without it, it is copied from the leader again.
            Err(error) if matches!(error.sqlstate(), Some("58P01" | "55000")) => {
                tracing::warn!(slot = name, error = %crate::sys::chain(&error), "a logical slot cannot be moved on; it is dropped");
                slots::drop_idle(&session, name).await.map(|_| ())
            }
            other => other,
        },
    }
}

/// Gets the state of logical slots from the leader, for the next start in recovery.
pub(super) async fn fetch(
    source: &MemberName,
    slots: &BTreeMap<String, SlotKind>,
    site: &mut Site<'_>,
) -> Result<(), ServerError> {
    let postgresql = &site.instance.config.postgresql;
    let target = target_at(source, postgresql.rewind.as_ref().unwrap_or(&postgresql.superuser), site)?;
    let states = async { slots::states(&connect(&target).await?, slots).await };
    let states =
        tokio::time::timeout(FETCH_LIMIT, states).await.map_err(|_| QueryError::Silent(FETCH_LIMIT))??;
    if states.is_empty() {
        return Err(ServerError::NoSlots(source.as_str().to_owned()));
    }
    site.observer.stage_slots(states);
    Ok(())
}

/// Asks the server of another member, beside the loop, from where on it has WAL. A user for rewinds that may not tell is
/// no reason not to know.
pub(super) fn ask_for_wal(source: &MemberName, site: &Site<'_>) -> Result<(), ServerError> {
    let postgresql = &site.instance.config.postgresql;
    let users = [postgresql.rewind.as_ref(), Some(&postgresql.superuser)];
    let targets: Vec<Target> =
        users.into_iter().flatten().map(|user| target_at(source, user, site)).collect::<Result<_, _>>()?;
    let (answer, member, asked) = (site.observer.oldest_wal.clone(), source.clone(), clock::now());
    tokio::spawn(async move {
        for target in targets {
            let oldest = async { connect(&target).await?.oldest_wal().await };
            match tokio::time::timeout(FETCH_LIMIT, oldest).await {
                Ok(Ok(lsn)) => {
                    answer.send_replace(Some(OldestWal { member, asked, lsn }));
                    return;
                }
                Ok(Err(error)) => {
                    let (user, error) = (target.user, crate::sys::chain(&error));
                    tracing::info!(%member, user, error = %error, "it is not told what WAL there is");
                }
                Err(_) => return,
            }
        }
    });
    Ok(())
}

/// Returns the connection to another member as this user.
fn target_at(member: &MemberName, user: &Credentials, site: &Site<'_>) -> Result<Target, ServerError> {
    let place = site.read.documents.get(member).and_then(|document| document.host_port());
    let place = place.ok_or_else(|| ServerError::Unknown(member.as_str().to_owned()))?;
    Ok(site.instance.target_at(place, user, "Patroni slots"))
}

/// Puts states that have just been fetched in place; the server is down.
pub(super) fn install(
    states: &BTreeMap<String, Vec<u8>>,
    instance: &Instance,
) -> Result<(), crate::sys::files::FileError> {
    for (name, state) in states {
        slots::install(instance.data_dir(), name, state)?;
        tracing::info!(slot = name, "the state of a logical slot is that of the leader");
    }
    Ok(())
}
