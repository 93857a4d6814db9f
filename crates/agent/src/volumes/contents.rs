//! What is on this node's drives, for whoever wants to know which of them a pool may have.
//!
//! Invariants: nothing is written, and no ledger is needed.
//!
//! On failure: a drive that can't be read is told as that; the others are told all the same.

use super::place::engine_of_nobody;
use crate::chain;
use api::{DriveContents, Holds, PoolDrives};
use model::DriveSerial;
use storage::header::Content;
use storage::kernel::{Contents, Engine, StepError};

/// What is on the drives with these serial numbers. Blocks, with a drive that hangs for as long as the kernel lets it.
pub(crate) fn contents(serials: impl IntoIterator<Item = DriveSerial>) -> PoolDrives {
    let engine = engine_of_nobody();
    let contents = |serial: DriveSerial| {
        let found = engine
            .as_ref()
            .map_err(|error| chain(error))
            .and_then(|engine| look(engine, &serial).map_err(|error| chain(&error)));
        DriveContents { serial, holds: found.unwrap_or_else(|why| Holds::Unread { why }) }
    };
    PoolDrives { drives: serials.into_iter().map(contents).collect() }
}

fn look(engine: &Engine, serial: &DriveSerial) -> Result<Holds, StepError> {
    Ok(match engine.contents(&engine.drive(serial)?)? {
        Contents::InUse => Holds::System {},
        Contents::Holds(Content::Blank) => Holds::Nothing {},
        Contents::Holds(Content::Pool(header)) => {
            Holds::Pool { cluster: header.cluster.to_string(), drive: header.drive }
        }
        Contents::Holds(Content::Unreadable(error)) => {
            Holds::Other { what: format!("a damaged pool drive ({error})") }
        }
        Contents::Holds(Content::Foreign { what, .. }) => Holds::Other { what: what.to_owned() },
    })
}
