//! Elects a leader among several operators by a Lease, as client-go does.
//!
//! No other machine's clock counts: a lease has expired when its version has not changed for its duration by this
//! process's own clock. Every write names the resource version that it follows, so that of two at once one fails.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ObjectMeta, PostParams},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// The Lease's name, in the operator's namespace.
const NAME: &str = "samovar-operator";
/// A lease that was not renewed for this time may be acquired by anyone.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this time stops, before others may acquire the lease.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// The interval of the leader's renewals, and of the others' attempts to acquire.
const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// A candidate for leadership.
pub(crate) struct Candidate {
    leases: Api<Lease>,
    identity: String,
}

/// The lease, held by this process.
pub(crate) struct Leadership {
    candidate: Candidate,
    lease: Lease,
}

/// The version of another's lease, and the time since which this process has seen it unchanged.
struct ObservedLease {
    version: Option<String>,
    since: Instant,
}

impl Candidate {
    /// `identity` is this Pod's name.
    pub(crate) fn new(client: Client, namespace: &str, identity: String) -> Self {
        Self { leases: Api::namespaced(client, namespace), identity }
    }

    /// Waits until this process holds the lease. Calls `on_standby` once it has read another's lease: from then on it
    /// is ready to take over.
    pub(crate) async fn acquire(self, on_standby: impl FnOnce()) -> Leadership {
        let mut on_standby = Some(on_standby);
        let mut observed = ObservedLease { version: None, since: Instant::now() };
        loop {
            // A later response is useless: the lease that it acquired may have expired.
            let Ok(outcome) = timeout(RENEW_DEADLINE, self.try_once(&mut observed)).await else {
                tracing::warn!("the API server does not respond; retrying to acquire the lease");
                continue;
            };
            match outcome {
                Ok(Some(lease)) => {
                    tracing::info!(identity = %self.identity, "became the leader");
                    return Leadership { candidate: self, lease };
                }
                Ok(None) => {
                    if let Some(on_standby) = on_standby.take() {
                        tracing::info!(identity = %self.identity, "another operator leads; standing by");
                        on_standby();
                    }
                }
                Err(error) => tracing::warn!(%error, "failed to acquire the lease; retrying"),
            }
            sleep(RETRY_PERIOD).await;
        }
    }

    async fn try_once(&self, observed: &mut ObservedLease) -> kube::Result<Option<Lease>> {
        let Some(lease) = self.leases.get_opt(NAME).await? else {
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.acquired_by_self(None)) };
            return unless_conflict(self.leases.create(&PostParams::default(), &lease).await);
        };
        if lease.resource_version() != observed.version {
            *observed = ObservedLease { version: lease.resource_version(), since: Instant::now() };
        }
        let spec = lease.spec.clone().unwrap_or_default();
        let is_free = self.holds(&lease) || spec.holder_identity.as_ref().is_none_or(String::is_empty);
        if is_free || observed.since.elapsed() > duration(&spec) {
            let lease = Lease { spec: Some(self.acquired_by_self(Some(&spec))), ..lease };
            return unless_conflict(self.leases.replace(NAME, &PostParams::default(), &lease).await);
        }
        Ok(None)
    }

    fn holds(&self, lease: &Lease) -> bool {
        lease.spec.as_ref().is_some_and(|spec| spec.holder_identity.as_ref() == Some(&self.identity))
    }

    /// The spec of a lease that this process acquires, after `before`.
    fn acquired_by_self(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(
                before.and_then(|spec| spec.lease_transitions).unwrap_or(-1).saturating_add(1),
            ),
            ..LeaseSpec::default()
        }
    }
}

impl Leadership {
    /// Renews the lease until that fails. Then the process must end; a write in flight may still arrive, with the
    /// state as this process saw it.
    pub(crate) async fn renew_until_lost(&mut self) -> Lost {
        let mut deadline = Instant::now() + RENEW_DEADLINE;
        loop {
            sleep(RETRY_PERIOD).await;
            let began = Instant::now();
            match timeout_at(deadline, self.renew()).await {
                Ok(Ok(true)) => deadline = began + RENEW_DEADLINE,
                Ok(Err(error)) => tracing::warn!(%error, "failed to renew the lease; retrying"),
                Ok(Ok(false)) | Err(_) => return Lost,
            }
        }
    }

    /// Renews the lease once. Returns false if another holds it.
    async fn renew(&mut self) -> kube::Result<bool> {
        let leases = &self.candidate.leases;
        loop {
            let spec = self.lease.spec.clone().unwrap_or_default();
            let spec = LeaseSpec { renew_time: Some(MicroTime(Timestamp::now())), ..spec };
            let next = Lease { spec: Some(spec), ..self.lease.clone() };
            if let Some(lease) = unless_conflict(leases.replace(NAME, &PostParams::default(), &next).await)? {
                self.lease = lease;
                return Ok(true);
            }
            // Acquired by another; or a person edited it, or an earlier response was lost, and it is still ours.
            match leases.get_opt(NAME).await? {
                Some(lease) if self.candidate.holds(&lease) => self.lease = lease,
                _ => return Ok(false),
            }
        }
    }

    /// Releases the lease, so that a standby need not wait for its expiry.
    pub(crate) async fn release(self) {
        let Some(spec) = self.lease.spec.clone() else { return };
        let spec = LeaseSpec { holder_identity: None, ..spec };
        let next = Lease { spec: Some(spec), ..self.lease };
        let deadline = Instant::now() + RETRY_PERIOD;
        let (leases, parameters) = (&self.candidate.leases, PostParams::default());
        if !matches!(timeout_at(deadline, leases.replace(NAME, &parameters, &next)).await, Ok(Ok(_))) {
            tracing::warn!("failed to release the lease; it expires in {} s", LEASE_DURATION.as_secs());
        }
    }
}

/// This process is no longer the leader.
#[derive(Debug, thiserror::Error)]
#[error("lost the lease: another operator may lead now; after a restart this one stands by")]
pub(crate) struct Lost;

/// `None` for a write that conflicts with another's, or with the deletion of the lease: this process does not hold it.
fn unless_conflict(written: kube::Result<Lease>) -> kube::Result<Option<Lease>> {
    match written {
        Ok(lease) => Ok(Some(lease)),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The duration that the holder has set.
fn duration(spec: &LeaseSpec) -> Duration {
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    seconds.map_or(LEASE_DURATION, Duration::from_secs)
}
