//! The cluster's replicated, quorum-committed state.
mod bug;
mod machine;
mod store;
mod token;
mod types;
#[cfg(test)]
mod sim;
