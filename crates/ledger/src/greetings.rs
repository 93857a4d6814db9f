//! A way to every other member is kept open, that nobody needs until a leader is lost.
//!
//! Purpose: who stands for election asks all voters, and then all ask whoever was elected for their leases, within the second or two that a lease has left. A connection that is made only then begins with a handshake, which on a machine that
//! is busy, or emulated, takes as long as all the rest.
//!
//! Invariants: a greeting says nothing and changes nothing. Idle connections end after 30 s (the agent's server): [`crate::Config::greet_ms`] is less.
//!
//! On failure: none; the next one comes in its turn.

use crate::network::Post;
use crate::transport::Message;
use crate::types::{Raft, node_id};
use futures_util::future::join_all;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Greets all other members, again and again, and soon after there are others. Runs until it is aborted, or openraft has stopped.
pub(crate) async fn greet(id: u64, raft: Raft, post: Post, (every, limit): (Duration, Duration)) {
    let mut metrics = raft.server_metrics();
    loop {
        // Whoever has just started has more urgent things to ask.
        sleep(every / 10).await;
        let membership = metrics.borrow_and_update().membership_config.clone();
        let others = membership.nodes().filter(|(other, _)| **other != id);
        let all = others.map(|(other, member)| post.send(node_id(*other), member, Message::Greeting, limit));
        // Who does not answer is not there, which others see.
        join_all(all).await;
        let changed = metrics.wait_for(|now| now.membership_config.log_id() != membership.log_id());
        if let Ok(Err(_)) = timeout(every, changed).await {
            return;
        }
    }
}
