//! A lease for users that an earlier run of the agent has left, asked for before this run has anything else.
//!
//! Purpose: that an agent's restart ends nobody. A run that looks after users needs a ledger that is open and has caught up, and must have seen what is there: on a
//! slow machine that takes longer than a lease has left, and the leader gives their volumes to another node. Asking for a lease needs nothing but to
//! know who this node is and whom to ask: the last run has noted it ([`Grantors`]).
//!
//! Why it is safe: a lease is a promise that the node's users end by then, whoever they are; whoever grants it waits for its end before it lets anybody else in. That promise
//! is kept by [`super::left_users`] and the guard, who go by the note of the lease. What this run does not know yet (a volume of theirs has been taken over) it does
//! not know a moment later in any case; their writes are fenced. It ends when the shell looks after them, and is limited by the note.
//!
//! Whoever grants it counts the node neither as one that takes volumes over nor as one that votes: that is for a run that is at work. Frames of virtual machines pass no longer than
//! by the last lease of a run that was (the valve on each tap): from there until the shell is, they run and are mute.
//!
//! Invariants: a lease that is over is not renewed; one that can't be noted is not taken. Numbers of requests are smaller than the shell's.
//!
//! On failure: users end when their lease does.

use super::left_users::LeftUsers;
use crate::store::{Store, StoreError};
use crate::{clock, priority};
use api::{LeaseAnswer, LeaseRequest, TlsIdentity};
use control::Moment;
use futures_util::future::join_all;
use ledger::http::HttpTransport;
use ledger::{Contact, Ledger};
use model::{BootId, NodeId, NodeName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;
use tokio::time::sleep;
use tracing::{info, warn};

/// How soon it is asked again. Whoever does not lead says so at once.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// How long an answer is waited for: nearly as long as a lease is good. A busy emulated node takes more than a second for a handshake alone, and begun anew it would never
/// end.
const ANSWER_LIMIT: Duration = Duration::from_millis(2500);
/// Who gives no answer for this long is asked once more beside that: one who was deposed gives none.
const ONCE_MORE_AFTER: Duration = Duration::from_millis(800);
/// Where the note is: with that of the lease, as long as the machine is up.
const FOLDER: &str = "/run";
const NAME: &str = "twinrack.grantors";

/// Who this node is in the ledger, and who may lead it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grantors {
    boot: BootId,
    node: NodeId,
    lease_ms: u32,
    others: BTreeMap<NodeName, SocketAddr>,
}

/// The note, as this run keeps it for the next.
#[derive(Debug, Default)]
pub(super) struct Noted {
    grantors: Option<Grantors>,
    /// What it was made from: the membership, and how long leases are.
    from: Option<(Option<(u64, u64)>, u32)>,
}

impl Noted {
    /// Keeps it true. This is asked at every look.
    pub(super) fn see(&mut self, ledger: &Ledger, boot: BootId) {
        let from = Some((ledger.members_from(), lease_ms(ledger)));
        if std::mem::replace(&mut self.from, from) == from {
            return;
        }
        let grantors = Grantors::of(ledger, boot);
        if self.grantors.as_ref() == Some(&grantors) {
            return;
        }
        if let Err(error) = Store::in_directory(FOLDER).save(NAME, &grantors) {
            warn!("the next run won't know whom to ask for a lease: {}", crate::chain(&error));
            // What it would find instead is no longer true.
            let _ = fs::remove_file(Path::new(FOLDER).join(NAME));
        }
        self.grantors = Some(grantors);
    }
}

impl Grantors {
    /// As the ledger says now.
    fn of(ledger: &Ledger, boot: BootId) -> Self {
        let node = ledger.id();
        let contacts =
            ledger.members().into_keys().filter(|id| *id != node).filter_map(|id| ledger.contact(id));
        Self {
            boot,
            node,
            lease_ms: lease_ms(ledger),
            others: contacts.map(|contact| (contact.name, contact.address)).collect(),
        }
    }

    fn noted(boot: BootId) -> Result<Option<Self>, StoreError> {
        let noted: Option<Self> = Store::in_directory(FOLDER).load_if_there(NAME)?;
        Ok(noted.filter(|noted| noted.boot == boot))
    }
}

/// Begins, beside all else: what this run does meanwhile may block.
pub(crate) fn start(identity: &TlsIdentity, boot: BootId, users: &LeftUsers) {
    let (identity, users) = (identity.clone(), users.clone());
    let renew = move || {
        priority::is_in_time();
        if let Err(error) = renew(&identity, boot, &users) {
            warn!("users that an earlier run has left get no other lease yet: {error}");
        }
    };
    if let Err(error) = thread::Builder::new().name("renewal".to_owned()).spawn(renew) {
        warn!("users that an earlier run has left get no other lease yet: {error}");
    }
}

fn renew(identity: &TlsIdentity, boot: BootId, users: &LeftUsers) -> Result<(), Box<dyn Error>> {
    if !users.are_renewable(now()) {
        return Ok(());
    }
    let Some(grantors) = Grantors::noted(boot)? else { return Ok(()) };
    let transport = HttpTransport::new(identity)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ask = |(name, address): (&NodeName, &SocketAddr), after| {
        let to = Contact { name: name.clone(), address: *address };
        let again = ask_again(&transport, to, &grantors, users);
        async move {
            sleep(after).await;
            again.await;
        }
    };
    // Who does not answer keeps nobody waiting for another, or for a later answer.
    let all = |after| join_all(grantors.others.iter().map(move |other| ask(other, after)));
    runtime.block_on(async { tokio::join!(all(Duration::ZERO), all(ONCE_MORE_AFTER)) });
    Ok(())
}

/// Asks one of them as long as there are users for whom it may.
async fn ask_again(transport: &HttpTransport, to: Contact, grantors: &Grantors, users: &LeftUsers) {
    let mut said = false;
    loop {
        // Before it is looked whether the shell has taken over: its numbers begin later. Nor do two of a boot have the same, whichever run they are from.
        let sent = now();
        if !users.are_renewable(sent) {
            return;
        }
        let left_users_ms = Some(grantors.lease_ms);
        let request =
            LeaseRequest { node: grantors.node, request: sent.0, left_users_ms, drives: BTreeMap::new() };
        let answer = transport.call(to.clone(), api::path::CLUSTER_LEASE, &request, ANSWER_LIMIT).await;
        if let Ok(LeaseAnswer { granted: true }) = answer {
            let end = sent.after(Duration::from_millis(grantors.lease_ms.into()));
            match users.renew(now, end) {
                Ok(()) if said => {}
                Ok(()) => info!("users that an earlier run has left have a lease again"),
                Err(error) => warn!("a lease that can't be noted is not taken: {error}"),
            }
            said = true;
        }
        sleep(ASK_AGAIN).await;
    }
}

fn lease_ms(ledger: &Ledger) -> u32 {
    ledger.state().borrow().settings.lease_ms
}

fn now() -> Moment {
    Moment(clock::uptime_ms())
}
