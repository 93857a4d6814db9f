//! `twinrack volume`: what volumes there are, where their copies are, and making, moving, growing, handing over, overriding and deleting them.
//!
//! On failure: [`ClusterError`].

mod shown;

pub(crate) use self::shown::find;
use self::shown::{Listed, Moved, Shown};
use crate::Outcome;
use crate::cluster::{self, ClusterArgs, ClusterError};
use crate::shown::json;
use api::HandOverRequest;
use clap::{Args, Subcommand, ValueEnum};
use deploy::Member;
use deploy::pool::{self, Patience, VolumeRequest};
use model::{LegId, Mirror, Provision, VolumeName, ZoneName};
use std::io::{self, Write};
use std::time::Duration;

const EXAMPLES: &str = "\
The access file names the cluster's agents and the certificate to show them, with paths that are relative to it:

  { \"ca\": \"ca.pem\", \"certificate\": \"client.pem\", \"key\": \"client.key\", \"agents\": { \"node-a1\": \"10.0.0.11:7443\" } }

A kept lab (`cargo xtask hil --keep`) has one in its directory.

Examples:
  twinrack volume --access access.json list
  twinrack volume --access access.json show data
  twinrack volume --access access.json create data --size 10GiB --mirror two-way
  twinrack volume --access access.json grow data --size 20GiB
  twinrack volume --access access.json widen data
  twinrack volume --access access.json move data --from drive-1
  twinrack volume --access access.json hand-over data --to node-b1
  twinrack volume --access access.json override data --by anna --yes
  twinrack volume --access access.json delete data --close

Exit codes: 0 good; 1 the cluster refused or did not answer; 2 the access file or the command line can't be read.";

/// Volumes: list, show, create, grow, widen, move, hand over, override, delete.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VolumeArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Every volume, and what each node has left.
    List,
    /// One volume: each copy's rack, node, drive and state.
    Show {
        /// Its name or its id (`volume-1`).
        volume: String,
    },
    /// Make a volume, and wait until it is open with every copy in sync. One that is there and is what is asked for is let alone.
    Create {
        /// Its name.
        name: VolumeName,
        /// Its size: a number with KiB, MiB, GiB or TiB, or of bytes; whole blocks of 4096 bytes.
        #[arg(long, value_parser = size)]
        size: u64,
        /// Space is given out when it is first written (the default): what is promised may be more than there is, and `list` says how much.
        #[arg(long, conflicts_with = "fixed")]
        thin: bool,
        /// All space is given out now.
        #[arg(long)]
        fixed: bool,
        /// How many copies: two-way is one in each rack, four-way two in each rack on different nodes.
        #[arg(long, value_enum, default_value_t = Copies::TwoWay)]
        mirror: Copies,
        /// In which rack it is opened first.
        #[arg(long)]
        rack: Option<ZoneName>,
    },
    /// Make a volume larger while it is used, and wait until its users have all of it. What it waits for is told as it changes.
    Grow {
        /// Its name or its id.
        volume: String,
        /// The size that it shall have: a number with KiB, MiB, GiB or TiB, or of bytes; whole blocks of 4096 bytes.
        #[arg(long, value_parser = size)]
        size: u64,
    },
    /// Have two copies more made of a two-way volume while it is used, one in each rack on another node, and wait until all four are in sync. What it waits for is told as it changes.
    Widen {
        /// Its name or its id.
        volume: String,
    },
    /// Move a volume's copy to another drive of its rack while it is used, and wait until the old one is gone. The volume never has fewer
    /// copies in sync meanwhile.
    Move {
        /// Its name or its id.
        volume: String,
        /// The drive that the copy is on: its id (`drive-1`) or its serial number.
        #[arg(long, value_name = "DRIVE")]
        from: String,
        /// Where it goes; without it, where most is free.
        #[arg(long, value_name = "DRIVE")]
        to: Option<String>,
    },
    /// Have another node own a volume, and wait until it is open there: its owner closes it in order, so that no copy has to be looked at. Refused while
    /// somebody uses it. Given again while it is under way, it waits; for a volume that is open there, it does nothing.
    HandOver {
        /// Its name or its id.
        volume: String,
        /// The node that gets it: its name or its id (`node-2`).
        #[arg(long, value_name = "NODE")]
        to: String,
        /// Ask processes that have it open to end (SIGTERM), and kill them if they have not after ten seconds.
        #[arg(long)]
        end_users: bool,
    },
    /// Open a volume of which no copy is known to be good (`offline`): one copy is taken for good, all others are made from it. Prints what may be lost;
    /// does it only with --yes. The ledger keeps who ordered it and what was told.
    Override {
        /// Its name or its id.
        volume: String,
        /// Who takes the risk.
        #[arg(long, value_name = "NAME")]
        by: String,
        /// Which copy (`leg-1`); without it, of those whose nodes answer, the one that is likely to lack least.
        #[arg(long, value_name = "LEG", value_parser = leg)]
        leg: Option<LegId>,
        /// I have read what may be lost.
        #[arg(long)]
        yes: bool,
    },
    /// Delete a volume and all that is on it. One that is open is refused.
    Delete {
        /// Its name or its id.
        volume: String,
        /// Close it first; refused while somebody uses it.
        #[arg(long)]
        close: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Copies {
    TwoWay,
    FourWay,
}

/// `10GiB` and the like, in bytes.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        unit => return Err(format!("`{unit}` is no unit: KiB, MiB, GiB and TiB are")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("`{digits}` is no whole number"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is more than can be counted"))
}

/// `leg-1`, as `show` has it.
fn leg(text: &str) -> Result<LegId, String> {
    let number = text.strip_prefix("leg-").and_then(|number| number.parse().ok());
    number
        .map(LegId)
        .ok_or_else(|| format!("`{text}` is no copy: `twinrack volume show` has them, leg-1 say"))
}

pub(crate) fn run(args: &VolumeArgs) -> io::Result<Outcome> {
    cluster::run(&args.cluster, |members| async move { carry_out(args, &members).await })
}

async fn carry_out(args: &VolumeArgs, members: &[Member]) -> Result<String, ClusterError> {
    let bound = args.cluster.bound();
    match &args.task {
        Task::List => {
            let (_, state) = pool::confirmed(members, bound).await?;
            let listed = Listed::of(&state);
            Ok(if args.cluster.json { json(&listed) } else { listed.to_string() })
        }
        Task::Show { volume } => show(args, members, bound, volume).await,
        Task::Create { name, size, thin: _, fixed, mirror, rack } => {
            let mirror = match mirror {
                Copies::TwoWay => Mirror::TwoWay,
                Copies::FourWay => Mirror::FourWay,
            };
            let (name, size_bytes, rack) = (name.clone(), *size, rack.clone());
            let provision = if *fixed { Provision::Fixed } else { Provision::Thin };
            let request = VolumeRequest { name, mirror, provision, size_bytes, rack };
            let ready = pool::volume(members, &request, bound).await?;
            show(args, members, bound, &ready.id.to_string()).await
        }
        Task::Grow { volume, size } => {
            let (_, state) = pool::confirmed(members, bound).await?;
            let id = find(&state, volume).ok_or_else(|| ClusterError::NoVolume(volume.clone()))?;
            pool::grow(members, id, *size, bound, waits).await?;
            show(args, members, bound, &id.to_string()).await
        }
        Task::Widen { volume } => {
            let (_, state) = pool::confirmed(members, bound).await?;
            let id = find(&state, volume).ok_or_else(|| ClusterError::NoVolume(volume.clone()))?;
            pool::widen(members, id, Patience::within(bound), waits).await?;
            show(args, members, bound, &id.to_string()).await
        }
        Task::Move { volume, from, to } => {
            let (_, state) = pool::confirmed(members, bound).await?;
            let id = find(&state, volume).ok_or_else(|| ClusterError::NoVolume(volume.clone()))?;
            let from = cluster::drive(&state, from)?;
            let to = to.as_ref().map(|to| cluster::drive(&state, to)).transpose()?;
            let to = pool::move_copy(members, id, (from, to), Patience::within(bound)).await?;
            let moved = Moved::new(id, from, to);
            Ok(if args.cluster.json { json(&moved) } else { moved.to_string() })
        }
        Task::HandOver { volume, to, end_users } => {
            let (_, state) = pool::confirmed(members, bound).await?;
            let id = find(&state, volume).ok_or_else(|| ClusterError::NoVolume(volume.clone()))?;
            let to = cluster::node(&state, to)?;
            let request = HandOverRequest { volume: id, to, end_users: *end_users };
            pool::hand_over(members, request, bound, waits).await?;
            show(args, members, bound, &id.to_string()).await
        }
        Task::Override { volume, by, leg, yes } => {
            let (state, answering) = pool::answering(members, bound).await?;
            let id = find(&state, volume).ok_or_else(|| ClusterError::NoVolume(volume.clone()))?;
            let plan = pool::choose_override(&state, &answering, id, *leg).map_err(pool::PoolError::from)?;
            if !yes {
                return Err(ClusterError::NeedsYes(plan.to_string()));
            }
            pool::override_volume(members, &plan, by, bound).await?;
            show(args, members, bound, &id.to_string()).await
        }
        Task::Delete { volume, close } => {
            let (_, state) = pool::confirmed(members, bound).await?;
            let id = find(&state, volume).ok_or_else(|| ClusterError::NoVolume(volume.clone()))?;
            pool::delete(members, id, *close, bound).await?;
            Ok(if args.cluster.json { json(&shown::Deleted::new(id)) } else { format!("{id} is deleted\n") })
        }
    }
}

/// Beside what comes of it, which may be for a program.
fn waits(why: &str) {
    // Nobody may be there to read it.
    let _ = writeln!(io::stderr(), "waits: {why}");
}

async fn show(
    args: &VolumeArgs,
    members: &[Member],
    bound: Duration,
    volume: &str,
) -> Result<String, ClusterError> {
    let (_, state) = pool::confirmed(members, bound).await?;
    let views = pool::views(members).await;
    let found = find(&state, volume).and_then(|id| Shown::of(&state, &views, id));
    let shown = found.ok_or_else(|| ClusterError::NoVolume(volume.to_owned()))?;
    Ok(if args.cluster.json { json(&shown) } else { shown.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_named_as_it_is_shown() {
        assert_eq!(leg("leg-12"), Ok(LegId(12)));
        for bad in ["12", "leg-", "leg-70000", "Leg-1", ""] {
            assert!(leg(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let sizes =
            [("4096", 4096), ("4KiB", 4096), ("64MiB", 1 << 26), ("10GiB", 10 << 30), ("2TiB", 2 << 40)];
        for (text, bytes) in sizes {
            assert_eq!(size(text), Ok(bytes));
        }
        for bad in ["", "GiB", "-1", "1.5GiB", "10GB", "99999999999999TiB", "1 GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
