//! Questions to the cluster that a standby cluster follows: which of its servers is the primary, and how its WAL came to be.

use std::time::Duration;

use crate::agent::act::job::{JobError, Work};
use crate::agent::act::postgres::Site;
use crate::agent::instance::Instance;
use crate::agent::view::Remote;
use crate::contract::config::Credentials;
use crate::postgres::basebackup::Source;
use crate::postgres::query::{Session, connect};
use crate::sys::clock::{self, Tick};

/// How long all of its servers may take together.
const ASK_LIMIT: Duration = Duration::from_secs(9);

/// Asks the other cluster's primary, beside the loop. A user for rewinds that may not tell is no reason not to know.
pub(super) fn ask(site: &Site<'_>) {
    let (instance, answer, asked) = (site.instance.clone(), site.observer.remote.clone(), clock::now());
    tokio::spawn(async move {
        let postgresql = &instance.config.postgresql;
        for user in [postgresql.rewind.as_ref(), Some(&postgresql.superuser)].into_iter().flatten() {
            match tokio::time::timeout(ASK_LIMIT, look(&instance, user, asked)).await {
                Ok(Ok(remote)) => {
                    answer.send_replace(Some(remote));
                    return;
                }
                Ok(Err(JobError::Query(error))) if error.sqlstate().is_some() => {
                    let (user, error) = (&user.username, crate::sys::chain(&error));
                    tracing::info!(user, error = %error, "the other cluster does not tell how its WAL came to be");
                }
                Ok(Err(error)) => {
                    tracing::debug!(error = %crate::sys::chain(&error), "the other cluster does not answer");
                    return;
                }
                Err(_) => return,
            }
        }
    });
}

async fn look(instance: &Instance, user: &Credentials, asked: Tick) -> Result<Remote, JobError> {
    let session = primary(instance, user, "Patroni rewind").await?;
    let (timeline, checkpoint) = session.timelines().await?.ok_or(JobError::NoRemotePrimary)?;
    let history = session.history(timeline).await?;
    let system_id = session.system_id().await?;
    Ok(Remote { asked, system_id, timeline, history, checkpoint_pending: checkpoint < timeline })
}

/// Connects to that server of the other cluster which is out of recovery.
pub(super) async fn primary(
    instance: &Instance,
    user: &Credentials,
    application_name: &str,
) -> Result<Session, JobError> {
    let ask = async |place| {
        let session = connect(&instance.target_at(place, user, application_name)).await?;
        let standby = session.is_in_recovery().await?;
        Ok::<_, JobError>((!standby).then_some(session))
    };
    let mut failed = JobError::NoRemotePrimary;
    for answer in futures_util::future::join_all(instance.remote_places().into_iter().map(ask)).await {
        match answer {
            Ok(Some(session)) => return Ok(session),
            Ok(None) => {}
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

impl Work {
    /// Returns how a program finds the other cluster's primary among its servers.
    pub(super) fn remote_primary(&self, user: &Credentials) -> Result<Source, JobError> {
        let place = self.instance.remote().ok_or(JobError::NoRemote)?;
        let mut options = user.options.clone();
        options.push(("target_session_attrs".to_owned(), "read-write".to_owned()));
        Ok(Source {
            host: place.host,
            port: place.port,
            user: user.username.clone(),
            passfile: Some(self.instance.passfile()),
            options,
        })
    }
}
