//! etcd's own members: who they are, how they do, adding and removing them.

use super::client::Client;
use super::error::EtcdError;
use super::seen::Header;

/// A member as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: u64,
    /// Empty until the member has started for the first time.
    pub name: String,
    pub peer_urls: Vec<String>,
    /// Empty until the member has started for the first time.
    pub client_urls: Vec<String>,
    pub is_learner: bool,
}

impl Member {
    fn from_library(member: &etcd_client::Member) -> Member {
        Member {
            id: member.id(),
            name: member.name().to_owned(),
            peer_urls: member.peer_urls().to_vec(),
            client_urls: member.client_urls().to_vec(),
            is_learner: member.is_learner(),
        }
    }
}

/// What one endpoint says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub cluster_id: u64,
    pub member_id: u64,
    /// The server's version, e.g. `3.5.16`.
    pub version: String,
    /// The member that leads; 0: the endpoint knows of none.
    pub leader: u64,
    pub raft_term: u64,
    pub db_size_bytes: i64,
    pub is_learner: bool,
    /// Alarms and other complaints, in etcd's words.
    pub errors: Vec<String>,
}

/// One endpoint of the configuration with what it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointStatus {
    pub endpoint: String,
    pub status: Result<Status, EtcdError>,
}

impl EndpointStatus {
    /// Tells whether the endpoint serves: it answers, knows a leader and raises no alarm.
    pub fn is_healthy(&self) -> bool {
        self.status.as_ref().is_ok_and(|status| status.leader != 0 && status.errors.is_empty())
    }
}

impl Client {
    /// Lists the members.
    ///
    /// # Errors
    /// etcd did not answer, or refuses.
    pub async fn members(&self) -> Result<Vec<Member>, EtcdError> {
        self.hedged(|mut client| async move {
            let answer = client.member_list().await?;
            let members = answer.members().iter().map(Member::from_library).collect();
            Ok((members, Header::identity(answer.header())))
        })
        .await
    }

    /// Adds a member that will listen to its peers at `peer_urls`; returns its id.
    ///
    /// # Errors
    /// etcd did not answer, so that whether it is added is not known; or it refuses, for instance because too few
    /// members are up.
    pub async fn member_add(&self, peer_urls: &[String], learner: bool) -> Result<u64, EtcdError> {
        self.once(0, |mut client| async move {
            let options = learner.then(|| etcd_client::MemberAddOptions::new().with_is_learner());
            let answer = client.member_add(peer_urls, options).await?;
            Ok((answer.member().map_or(0, etcd_client::Member::id), Header::identity(answer.header())))
        })
        .await
    }

    /// Asks every configured endpoint how it does, one after the other, each within the limit.
    pub async fn statuses(&self) -> Vec<EndpointStatus> {
        let mut all = Vec::with_capacity(self.endpoints());
        for index in 0..self.endpoints() {
            let (endpoint, answer) = self.at(index, |mut client| async move { client.status().await }).await;
            let status = answer.map(|answer| Status {
                cluster_id: answer.header().map_or(0, etcd_client::ResponseHeader::cluster_id),
                member_id: answer.header().map_or(0, etcd_client::ResponseHeader::member_id),
                version: answer.version().to_owned(),
                leader: answer.leader(),
                raft_term: answer.raft_term(),
                db_size_bytes: answer.db_size(),
                is_learner: answer.is_learner(),
                errors: answer.errors().to_vec(),
            });
            all.push(EndpointStatus { endpoint, status });
        }
        all
    }
}
