//! `twinrack vm`: what virtual machines there are, making, starting, stopping, moving, placing and deleting them, what they say, and images for their volumes.
//!
//! On failure: [`ClusterError`].

mod import;
pub(crate) mod shown;

use crate::Outcome;
use crate::cluster::{self, ClusterArgs, ClusterError};
use crate::shown::json;
use clap::{Args, Subcommand};
use control::State;
use control::vm::Wanted;
use deploy::{Member, pool, vms};
use model::{
    GroupName, InvalidValue, NodeName, VlanId, VmId, VmName, VmPlacement, VmSpec, VolumeId, ZoneName,
};
use serde::Serialize;
use shown::{Done, Listed, Shown};
use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

const EXAMPLES: &str = "\
A virtual machine runs on one node at a time, on volumes that are its own. When its node or rack is lost, it is started on another. One with a home zone goes home
when that is well again; a strict one never leaves it. One that was made with --can-be-saved has a volume more, for its memory: it can be saved, by name or when its node is drained, and goes on later where it was. One is made only if all that there are run with either rack lost, but those that are strict there.
The access file is that of `twinrack volume`.

Examples:
  twinrack vm --access access.json import debian.qcow2 web-disk
  twinrack vm --access access.json create --name web --memory-mib 2048 --cores 2 --volume web-disk --nic --zone room-1 --start
  twinrack vm --access access.json list
  twinrack vm --access access.json show web
  twinrack vm --access access.json console web --follow
  twinrack vm --access access.json set-placement web --zone room-2 --strict
  twinrack vm --access access.json migrate web --to host-2
  twinrack vm --access access.json migrate web --cancel
  twinrack vm --access access.json save web --within 300
  twinrack vm --access access.json start web
  twinrack vm --access access.json stop web
  twinrack vm --access access.json delete web

Exit codes: 0 good; 1 the cluster refused or did not answer; 2 the access file or the command line can't be read.";

/// Virtual machines: create, list, show, start, stop, save, migrate, set-placement, delete, console, import.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VmArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Make one. One that is there and is what is asked for is let alone.
    Create(CreateArgs),
    /// Every one: what is wanted of it, what it is doing, where; and why, if it is off and should not be.
    List,
    /// One, with its volumes.
    Show {
        /// Its name or its id (`vm-1`).
        vm: String,
    },
    /// Have one run, and wait until it does. One that is saved goes on where it was, wherever there is a place; one that is being saved runs on.
    Start {
        /// Its name or its id.
        vm: String,
    },
    /// Have one shut down (killed if it does not), and wait until nothing of it runs. What was saved of its memory is given up.
    Stop {
        /// Its name or its id.
        vm: String,
    },
    /// Have the memory of one saved, and wait until it is and nothing of it runs. It must have been made with --can-be-saved. One that can't be saved runs on, and it is said why.
    Save {
        /// Its name or its id.
        vm: String,
    },
    /// Have one go on on another node without being stopped, and wait until it runs there; or give that up.
    Migrate {
        /// Its name or its id.
        vm: String,
        /// The node's name.
        #[arg(long, value_name = "NODE", required_unless_present = "cancel")]
        to: Option<NodeName>,
        /// Give up the migration that is under way: it runs on where it is. Refused once it has gone over. What a drain moves it tries again.
        #[arg(long, conflicts_with = "to")]
        cancel: bool,
    },
    /// Say where one may run. One that is where it may no longer be moves by itself.
    SetPlacement {
        /// Its name or its id.
        vm: String,
        #[command(flatten)]
        place: PlaceArgs,
        /// No home: wherever there is room, and it stays there.
        #[arg(long, conflicts_with = "zone", required_unless_present = "zone")]
        anywhere: bool,
    },
    /// Delete one that is stopped. Its volumes stay as they are.
    Delete {
        /// Its name or its id.
        vm: String,
    },
    /// Print what one said on its serial port: as much as its node has kept.
    Console {
        /// Its name or its id.
        vm: String,
        /// Go on printing what it says, wherever it goes, until Ctrl-C.
        #[arg(long, conflicts_with = "json")]
        follow: bool,
    },
    /// Write a disk image over the start of a volume: raw or qcow2, without a backing file. Its virtual machine must be off.
    Import {
        /// The image.
        file: PathBuf,
        /// The volume's name or its id (`volume-1`).
        volume: String,
        /// What the file is; without it, what it looks like.
        #[arg(long, value_enum)]
        format: Option<import::ImageFormat>,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Its name.
    #[arg(long)]
    name: VmName,
    /// Its memory: all of it is held as long as it runs.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    memory_mib: u64,
    /// Its virtual processors.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    cores: u32,
    /// A volume, by name or id; may be given several times. It boots from the first.
    #[arg(long = "volume", value_name = "VOLUME", required = true)]
    volumes: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Those of one group are kept apart, where that can be.
    #[arg(long)]
    group: Option<GroupName>,
    /// A NIC in a compute VLAN, in the cluster's first if none is named; may be given several times.
    #[arg(
        long = "nic",
        value_name = "VLAN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = NicVlan::FIRST,
    )]
    nics: Vec<NicVlan>,
    /// Make a thin volume for its memory, too (NAME-memory), so that it can be saved.
    #[arg(long)]
    can_be_saved: bool,
    /// Start it, and wait until it runs.
    #[arg(long)]
    start: bool,
}

/// Which VLAN a NIC shall be in; `None`: the cluster's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NicVlan(Option<VlanId>);

impl NicVlan {
    const FIRST: &str = "first";
}

impl FromStr for NicVlan {
    type Err = InvalidValue;

    fn from_str(value: &str) -> Result<Self, InvalidValue> {
        if value == Self::FIRST { Ok(Self(None)) } else { value.parse().map(|vlan| Self(Some(vlan))) }
    }
}

#[derive(Debug, Clone, Args)]
struct PlaceArgs {
    /// Its home: it runs there if it can, elsewhere if not, and goes home again. Without it, it runs wherever there is room.
    #[arg(long)]
    zone: Option<ZoneName>,
    /// It never leaves its home.
    #[arg(long, requires = "zone")]
    strict: bool,
}

impl PlaceArgs {
    fn placement(&self) -> VmPlacement {
        match &self.zone {
            None => VmPlacement::Anywhere,
            Some(zone) if self.strict => VmPlacement::Strict(zone.clone()),
            Some(zone) => VmPlacement::Prefers(zone.clone()),
        }
    }
}

pub(crate) fn run(args: &VmArgs) -> io::Result<Outcome> {
    cluster::run(&args.cluster, |members| async move { carry_out(args, &members).await })
}

async fn carry_out(args: &VmArgs, members: &[Member]) -> Result<String, ClusterError> {
    let bound = args.cluster.bound();
    let (_, state) = pool::confirmed(members, bound).await?;
    match &args.task {
        Task::Create(create) => {
            let known = if create.nics.is_empty() { Vec::new() } else { vms::compute_vlans(members).await };
            let asked = asked(&state, create, &known)?;
            let id = if create.can_be_saved {
                vms::create_with_memory(members, &asked, bound).await?
            } else {
                vms::create(members, &asked, bound).await?
            };
            if create.start {
                vms::want(members, id, Wanted::Running, bound, waits).await?;
            }
            show(args, members, id).await
        }
        Task::List => Ok(said(args, &Listed::of(&state, &pool::views(members).await))),
        Task::Show { vm } => show(args, members, find(&state, vm)?).await,
        Task::Start { vm } => {
            let id = find(&state, vm)?;
            if let Some(goes_on) = vms::goes_on(&state, id) {
                waits(&goes_on);
            }
            vms::want(members, id, Wanted::Running, bound, waits).await?;
            let (_, now) = pool::confirmed(members, bound).await?;
            vms::has_gone_on(&state, &now, id)
                .map_err(|why| ClusterError::HasBooted { vm: vm.clone(), why })?;
            show(args, members, id).await
        }
        Task::Stop { vm } => {
            let id = find(&state, vm)?;
            vms::want(members, id, Wanted::Stopped, bound, waits).await?;
            Ok(said(args, &Done::new(id, "off")))
        }
        Task::Save { vm } => {
            let id = find(&state, vm)?;
            vms::want(members, id, Wanted::Saved, bound, waits).await?;
            let (_, state) = pool::confirmed(members, bound).await?;
            Ok(said(args, &Done::saved(&state, id)))
        }
        Task::Migrate { vm, to, cancel: _ } => {
            let id = find(&state, vm)?;
            match to {
                Some(to) => vms::migrate(members, id, to, bound, waits).await?,
                None => vms::cancel_migration(members, id, bound).await?,
            }
            show(args, members, id).await
        }
        Task::SetPlacement { vm, place, anywhere: _ } => {
            let id = find(&state, vm)?;
            vms::set_placement(members, id, &place.placement(), bound).await?;
            show(args, members, id).await
        }
        Task::Delete { vm } => {
            let id = find(&state, vm)?;
            vms::delete(members, id, bound).await?;
            Ok(said(args, &Done::new(id, "deleted")))
        }
        Task::Console { vm, follow } => {
            let id = find(&state, vm)?;
            if *follow { follow_console(members, id, bound).await } else { console(args, members, id).await }
        }
        Task::Import { file, volume, format } => {
            let id = disk(&state, volume)?;
            Ok(said(args, &import::import(members, file, *format, id, bound).await?))
        }
    }
}

fn said(args: &VmArgs, shown: &(impl Serialize + Display)) -> String {
    if args.cluster.json { json(shown) } else { shown.to_string() }
}

fn find(state: &State, vm: &str) -> Result<VmId, ClusterError> {
    shown::find(state, vm).ok_or_else(|| ClusterError::NoVm(vm.to_owned()))
}

fn disk(state: &State, volume: &str) -> Result<VolumeId, ClusterError> {
    crate::volume::find(state, volume).ok_or_else(|| ClusterError::NoVolume(volume.to_owned()))
}

/// What is to be made.
fn asked(state: &State, args: &CreateArgs, compute_vlans: &[VlanId]) -> Result<VmSpec, ClusterError> {
    let nics: Vec<_> = args.nics.iter().map(|NicVlan(vlan)| *vlan).collect();
    Ok(VmSpec {
        name: args.name.clone(),
        memory_bytes: args.memory_mib << 20,
        cores: args.cores,
        placement: args.place.placement(),
        anti_affinity: args.group.clone(),
        volumes: args.volumes.iter().map(|volume| disk(state, volume)).collect::<Result<_, _>>()?,
        saves_to: None,
        nics: vms::nics(&nics, compute_vlans).map_err(vms::VmsError::from)?,
    })
}

/// Beside what comes of it, which may be for a program.
pub(crate) fn waits(why: &str) {
    // Nobody may be there to read it.
    let _ = writeln!(io::stderr(), "waits: {why}");
}

async fn show(args: &VmArgs, members: &[Member], id: VmId) -> Result<String, ClusterError> {
    let (_, state) = pool::confirmed(members, args.cluster.bound()).await?;
    let shown = Shown::of(&state, &pool::views(members).await, id);
    Ok(said(args, &shown.ok_or_else(|| ClusterError::NoVm(id.to_string()))?))
}

/// Everything that is kept of what it said where it is.
async fn console(args: &VmArgs, members: &[Member], id: VmId) -> Result<String, ClusterError> {
    #[derive(Serialize)]
    struct Said {
        version: u32,
        vm: String,
        node: Option<String>,
        text: String,
    }
    let (mut text, mut heard, bound) = (String::new(), None, args.cluster.bound());
    let deadline = tokio::time::Instant::now() + bound;
    while let Some(next) = vms::hear(members, id, heard.as_ref(), bound).await? {
        // One that goes on talking is not heard out.
        let is_all = next.text.is_empty() || tokio::time::Instant::now() >= deadline;
        text.push_str(&next.text);
        heard = Some(next);
        if is_all {
            break;
        }
    }
    let node = heard.map(|heard| heard.name);
    let said = Said { version: crate::shown::VERSION, vm: id.to_string(), node, text };
    Ok(if args.cluster.json { json(&said) } else { said.text })
}

/// From one question for what it said to the next.
const LISTEN_EVERY: Duration = Duration::from_millis(500);

/// Prints what it says until the process is ended, wherever it goes. A node that does not answer is asked again: its virtual machine goes on elsewhere.
async fn follow_console(members: &[Member], id: VmId, bound: Duration) -> Result<String, ClusterError> {
    let mut heard = None;
    loop {
        match vms::hear(members, id, heard.as_ref(), bound).await {
            Ok(None) => {}
            Ok(Some(next)) => {
                if next.is_torn {
                    waits(&format!("not all that it said was heard; it is on {} now", next.name));
                }
                let mut out = io::stdout().lock();
                let written = out.write_all(next.text.as_bytes()).and_then(|()| out.flush());
                if written.is_err() {
                    // Whoever read it has seen enough.
                    return Ok(String::new());
                }
                heard = Some(next);
            }
            Err(error @ vms::VmsError::NoVm(_)) => return Err(error.into()),
            Err(error) => waits(&error.to_string()),
        }
        tokio::time::sleep(LISTEN_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        vm: VmArgs,
    }

    fn line(text: &str) -> Result<Task, clap::Error> {
        let words = ["vm", "--access", "a"].into_iter().chain(text.split_whitespace());
        Line::try_parse_from(words).map(|line| line.vm.task)
    }

    #[test]
    fn a_strict_one_has_a_home() {
        assert!(line("create --name a --memory-mib 1 --cores 1 --volume v --strict").is_err());
        let Ok(Task::Create(create)) =
            line("create --name a --memory-mib 1 --cores 1 --volume v --volume w --zone z --strict")
        else {
            panic!("it is refused");
        };
        assert_eq!(create.place.placement(), VmPlacement::Strict("z".parse().unwrap()));
        assert_eq!(create.volumes, ["v", "w"]);
        let Ok(Task::SetPlacement { place, .. }) = line("set-placement a --zone z") else { panic!() };
        assert_eq!(place.placement(), VmPlacement::Prefers("z".parse().unwrap()));
        let Ok(Task::SetPlacement { place, .. }) = line("set-placement a --anywhere") else { panic!() };
        assert_eq!(place.placement(), VmPlacement::Anywhere);
    }

    #[test]
    fn a_nic_is_in_the_vlan_that_is_named_or_in_the_first() {
        let Ok(Task::Create(create)) =
            line("create --name a --memory-mib 1 --cores 1 --nic --volume v --nic=20 --nic")
        else {
            panic!("it is refused");
        };
        let vlan = "20".parse().ok();
        assert_eq!(create.nics, [NicVlan(None), NicVlan(vlan), NicVlan(None)]);
        assert_eq!(create.volumes, ["v"]);
    }

    #[test]
    fn one_can_be_saved_only_if_that_was_asked_for() {
        for (more, can_be_saved) in [("", false), (" --can-be-saved", true)] {
            let Ok(Task::Create(create)) =
                line(&format!("create --name a --memory-mib 1 --cores 1 --volume v{more}"))
            else {
                panic!("it is refused");
            };
            assert_eq!(create.can_be_saved, can_be_saved);
        }
        let Ok(Task::Save { vm }) = line("save web --within 300") else { panic!("it is refused") };
        assert_eq!(vm, "web");
    }

    #[test]
    fn what_makes_no_sense_is_no_command() {
        for bad in [
            "create --name a --memory-mib 0 --cores 1 --volume v",
            "create --name a --memory-mib 1 --cores 0 --volume v",
            "create --name a --memory-mib 1 --cores 1",
            "create --name a --memory-mib 1 --cores 1 --volume v --nic=4095",
            "set-placement a",
            "set-placement a --anywhere --zone z",
            "console a --follow --json",
            "save",
        ] {
            assert!(line(bad).is_err(), "{bad}");
        }
    }
}
